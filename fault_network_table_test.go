package tokenbroker_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// A networkFault is what a vendor's machine does to a connection, or whatever is on the
// way to it.
type networkFault struct {
	name    string
	strike  func(*network)
	mend    func(*network) // nil if it is mended by a vendor who is well
	outcome outcome
	says    string
}

func networkFaults() []networkFault {
	return []networkFault{
		{"connection refused", func(n *network) { n.line.hangUp() }, func(n *network) { n.line.listen() }, unavailable, "connection refused"},
		{"reset at once", onTheLine(func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); abort(conn) }), nil, unavailable, "connection reset by peer"},
		{"closed at once", onTheLine(func(conn net.Conn) { _ = conn.Close() }), nil, unavailable, ""},
		{"hung at once", onTheLine(hang), nil, unavailable, "no answer in time (request_timeout)"},
		{"no TLS", func(n *network) { n.line.meet(serving(n.t, n.sim)) }, nil, unavailable, "first record does not look like a TLS handshake"},
		{"old TLS", secure(func(n *network) *tls.Config {
			config := n.authority.issue(n.t, "127.0.0.1", time.Hour)
			config.MaxVersion = tls.VersionTLS11
			return config
		}), nil, unavailable, "protocol version not supported"},
		{"certificate of an unknown authority", secure(func(n *network) *tls.Config {
			return newAuthority(n.t).issue(n.t, "127.0.0.1", time.Hour)
		}), nil, unavailable, "certificate signed by unknown authority"},
		{"certificate of another host", secure(func(n *network) *tls.Config {
			return n.authority.issue(n.t, "127.0.0.2", time.Hour)
		}), nil, unavailable, "certificate is valid for 127.0.0.2, not 127.0.0.1"},
		{"certificate expired", secure(func(n *network) *tls.Config {
			return n.authority.issue(n.t, "127.0.0.1", -time.Minute)
		}), nil, unavailable, "certificate has expired"},

		{"hung", answered(vendorsim.Hang), nil, unavailable, "no answer in time (request_timeout)"},
		{"slow drip of an answer", answered(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`)
			drip(r, func() error {
				_, err := io.WriteString(w, "a")
				w.(http.Flusher).Flush()
				return err
			})
			panic(http.ErrAbortHandler) // the answer has no end, which may be seen before the time is up
		}), nil, unavailable, "the answer broke off: "},
		{"slow drip of a header", raw("HTTP/1.1 200 OK\r\nX-Drip: ", func(conn net.Conn) {
			for range time.Tick(50 * time.Millisecond) {
				if _, err := io.WriteString(conn, "a"); err != nil {
					return
				}
			}
		}), nil, unavailable, "no answer in time (request_timeout)"},
		{"reset half-way", answered(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`)
			w.(http.Flusher).Flush()
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				abort(conn)
			}
		}), nil, unavailable, "the answer broke off: "},
		{"broken off", answered(vendorsim.Break(`{"access_token":"`)), nil, unavailable, "the answer broke off: unexpected EOF"},
		{"done and lost", func(n *network) { answered(n.sim.Lose)(n) }, nil, unavailable, "EOF"},
		{"done and broken off", func(n *network) { answered(n.sim.CutOff)(n) }, nil, unavailable, "the answer broke off: unexpected EOF"},

		{"another protocol", raw("SSH-2.0-OpenSSH_9.9\r\n", nil), nil, unavailable, "malformed HTTP response"},
		{"what it was sent, sent back", raw("", nil), nil, unavailable, "malformed HTTP "},
		{"what it was sent, for a header", raw("HTTP/1.1 200 OK\r\n", nil), nil, unavailable, "malformed MIME header"},
		{"what it was sent, for a length", raw("HTTP/1.1 200 OK\r\nContent-Length: ", nil), nil, unavailable, ""},
		{"what it was sent, for a status", raw("HTTP/1.1 ", nil), nil, unavailable, "malformed HTTP status code"},
		{"redirect to elsewhere", redirected, nil, nonsense, "answered with a redirect (307), which is not followed"},
	}
}

// onTheLine has a caller be met before a word is said.
func onTheLine(meets func(net.Conn)) func(*network) {
	return func(n *network) { n.line.meet(meets) }
}

// secure has the vendor, who is well, show another certificate.
func secure(config func(*network) *tls.Config) func(*network) {
	return func(n *network) { n.line.meet(secured(config(n), serving(n.t, n.sim))) }
}

// answered has a fault in the vendor's place.
func answered(fault http.HandlerFunc) func(*network) {
	return func(n *network) {
		n.line.meet(secured(n.authority.issue(n.t, "127.0.0.1", time.Hour), serving(n.t, fault)))
	}
}

// raw has each request be answered by some text, and by something that follows; nil is
// the request itself.
func raw(text string, follows func(net.Conn)) func(*network) {
	return func(n *network) {
		n.line.meet(secured(n.authority.issue(n.t, "127.0.0.1", time.Hour), func(conn net.Conn) {
			defer func() { _ = conn.Close() }()
			request := make([]byte, 16<<10)
			size, err := bufio.NewReader(conn).Read(request)
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text)
			if follows != nil {
				follows(conn)
				return
			}
			_, _ = conn.Write(request[:size])
		}))
	}
}

// redirected has the vendor point to where nobody is to be asked.
func redirected(n *network) {
	elsewhere := newLine(n.t)
	elsewhere.meet(func(conn net.Conn) {
		assert.Fail(n.t, "a redirect was followed")
		_ = conn.Close()
	})
	answered(vendorsim.RedirectTo(http.StatusTemporaryRedirect, "https://"+elsewhere.addr+"/"))(n)
}

// hang holds a connection until its caller hangs up.
func hang(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// drip does something again and again until the caller has hung up.
func drip(r *http.Request, drop func() error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			if drop() != nil {
				return
			}
		}
	}
}
