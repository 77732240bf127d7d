package faults_test

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
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/test/bufconn"
)

// authority is a certificate authority.
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
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
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

// issue makes a server's certificate for an IP address, valid for the given time from now.
func (a *authority) issue(t *testing.T, address string, valid time.Duration) *tls.Config {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a vendor"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		IPAddresses: []net.IP{net.ParseIP(address)},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: a.key}}}
}

// endpoint is an address of an in-memory network. Its handler serves each connection, and can be
// changed. Without a handler, connections are refused.
//
// In memory, the network works with simulated time, so that the time that a slow vendor, a hung
// connection or a timeout takes is exact on any machine.
type endpoint struct {
	mu      sync.Mutex
	handler func(net.Conn)
}

// handle sets the handler of new connections; nil refuses them.
func (e *endpoint) handle(handler func(net.Conn)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handler = handler
}

// dial opens a connection to the endpoint, which is at the address.
func (e *endpoint) dial(ctx context.Context, address string) (net.Conn, error) {
	e.mu.Lock()
	handler := e.handler
	e.mu.Unlock()
	if handler == nil {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return nil, &net.OpError{
			Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to),
			Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
		}
	}
	client, server, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	go handler(server)
	return client, nil
}

// connect makes the two ends of a connection, buffered as the kernel's are.
func connect(ctx context.Context) (client, server net.Conn, err error) {
	listener := bufconn.Listen(64 << 10)
	defer func() { _ = listener.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if conn, err := listener.Accept(); err == nil {
			accepted <- conn
		}
	}()
	client, err = listener.DialContext(ctx)
	if err != nil {
		return nil, nil, err
	}
	reset := &atomic.Bool{}
	return &memoryConn{client, reset}, &memoryConn{<-accepted, reset}, nil
}

// memoryConn is one end of a connection that either end can reset.
type memoryConn struct {
	net.Conn
	isReset *atomic.Bool // shared by both ends
}

func (c *memoryConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.reason("read", err)
}

func (c *memoryConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.reason("write", err)
}

func (c *memoryConn) reason(op string, err error) error {
	if err != nil && c.isReset.Load() {
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
	}
	return err
}

// abort resets a connection.
func abort(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.(*memoryConn).isReset.Store(true)
	_ = conn.Close()
}

// withTLS serves a handler's connections over TLS.
func withTLS(config *tls.Config, handler func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		secure := tls.Server(conn, config)
		if secure.HandshakeContext(context.Background()) != nil {
			_ = conn.Close()
			return
		}
		handler(secure)
	}
}

// serving passes connections to an HTTP server.
func serving(t *testing.T, handler http.Handler) func(net.Conn) {
	t.Helper()
	conns := &connListener{conns: make(chan net.Conn), closed: make(chan struct{})}
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

// connListener accepts connections that are already established.
type connListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *connListener) Addr() net.Addr { return &net.TCPAddr{} }
