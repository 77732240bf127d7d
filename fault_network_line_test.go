package tokenbroker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	return &authority{certificate, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// issue makes a server's certificate, which is good for a while from now on.
func (a *authority) issue(t *testing.T, address string, life time.Duration) *tls.Config {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a vendor"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IPAddresses: []net.IP{net.ParseIP(address)},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: a.key}}}
}

// A line is where a vendor is to be reached. What meets his callers can be changed.
type line struct {
	t    *testing.T
	addr string

	mu       sync.Mutex
	listener net.Listener
	meets    func(net.Conn)
}

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{t: t, addr: "127.0.0.1:0"}
	l.listen()
	l.addr = l.listener.Addr().String()
	t.Cleanup(l.hangUp)
	return l
}

// listen has the line be answered.
func (l *line) listen() {
	l.t.Helper()
	listener, err := new(net.ListenConfig).Listen(l.t.Context(), "tcp", l.addr)
	require.NoError(l.t, err)
	l.listener = listener
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			meets := l.meets
			l.mu.Unlock()
			go meets(conn)
		}
	}()
}

// hangUp has nobody answer.
func (l *line) hangUp() { _ = l.listener.Close() }

// meet has callers be met by something else from now on.
func (l *line) meet(meets func(net.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meets = meets
}

// secured has TLS spoken before whatever comes.
func secured(config *tls.Config, meets func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		secure := tls.Server(conn, config)
		if secure.HandshakeContext(context.Background()) != nil {
			_ = conn.Close()
			return
		}
		meets(secure)
	}
}

// serving has a server of HTTP meet a caller.
func serving(t *testing.T, handler http.Handler) func(net.Conn) {
	t.Helper()
	conns := &handedOver{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(conns) }()
	t.Cleanup(func() { _ = server.Close() })
	return func(conn net.Conn) {
		select {
		case conns.conns <- conn:
		case <-conns.closed:
			_ = conn.Close()
		}
	}
}

// handedOver is a listener for connections that are there.
type handedOver struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handedOver) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handedOver) Addr() net.Addr { return &net.TCPAddr{} }

// abort resets a connection.
func abort(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}
