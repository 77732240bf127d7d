package faults_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// networkFault is a fault of the connections to a vendor. The message of a failed read has the
// text says.
type networkFault struct {
	name    string
	inject  func(*network)
	outcome outcome
	says    string
}

func networkFaults() []networkFault {
	return []networkFault{
		{"connection refused", func(n *network) { n.vendor.handle(nil) }, unavailable, "connection refused"},
		{"reset at once", connection(func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); abort(conn) }), unavailable, "connection reset by peer"},
		{"closed at once", connection(func(conn net.Conn) { _ = conn.Close() }), unavailable, ""},
		{"hung before the TLS handshake", connection(hang), unavailable, "no response in time (request_timeout)"},
		{"no TLS", func(n *network) { n.vendor.handle(serving(n.T, n.Sim)) }, unavailable, "first record does not look like a TLS handshake"},
		{"old TLS", secure(func(n *network) *tls.Config {
			config := n.authority.issue(n.T, "127.0.0.1", 24*time.Hour)
			config.MaxVersion = tls.VersionTLS11
			return config
		}), unavailable, "protocol version not supported"},
		{"certificate of an unknown authority", secure(func(n *network) *tls.Config {
			return newAuthority(n.T).issue(n.T, "127.0.0.1", 24*time.Hour)
		}), unavailable, "certificate signed by unknown authority"},
		{"certificate of another host", secure(func(n *network) *tls.Config {
			return n.authority.issue(n.T, "127.0.0.2", 24*time.Hour)
		}), unavailable, "certificate is valid for 127.0.0.2, not 127.0.0.1"},
		{"certificate expired", secure(func(n *network) *tls.Config {
			return n.authority.issue(n.T, "127.0.0.1", -time.Minute)
		}), unavailable, "certificate has expired"},

		{"hung", answered(vendorsim.Hang), unavailable, "no response in time (request_timeout)"},
		{"slow drip of an answer", answered(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`)
			drip(r, func() error {
				_, err := io.WriteString(w, "a")
				w.(http.Flusher).Flush()
				return err
			})
			panic(http.ErrAbortHandler) // aborts the answer without an end
		}), unavailable, "the response broke off: "},
		{"slow drip of a header", raw("HTTP/1.1 200 OK\r\nX-Drip: ", func(conn net.Conn) {
			for range time.Tick(50 * time.Millisecond) {
				if _, err := io.WriteString(conn, "a"); err != nil {
					return
				}
			}
		}), unavailable, "no response in time (request_timeout)"},
		{"reset half-way", answered(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`)
			w.(http.Flusher).Flush()
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				abort(conn)
			}
		}), unavailable, "the response broke off: "},
		{"answer cut off", answered(vendorsim.Break(`{"access_token":"`)), unavailable, "the response broke off: unexpected EOF"},
		{"processed, connection closed", func(n *network) { answered(n.Sim.Lose)(n) }, unavailable, "EOF"},
		{"processed, answer cut off", func(n *network) { answered(n.Sim.CutOff)(n) }, unavailable, "the response broke off: unexpected EOF"},

		{"another protocol", raw("SSH-2.0-OpenSSH_9.9\r\n", nil), unavailable, "the response is not HTTP"},
		{"the request repeated", raw("", nil), unavailable, "the response is not HTTP"},
		{"the request repeated as a header", raw("HTTP/1.1 200 OK\r\n", nil), unavailable, "the response is not HTTP"},
		{"the request repeated as a length", raw("HTTP/1.1 200 OK\r\nContent-Length: ", nil), unavailable, ""},
		{"the request repeated as a status", raw("HTTP/1.1 ", nil), unavailable, "the response is not HTTP"},
		{"101 Switching Protocols and silence", raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", hang), invalidResponse, "unexpected status 101"},
		{"an invalid status", raw("HTTP/1.1 099 Early\r\nContent-Length: 0\r\n\r\n", hang), invalidResponse, "unexpected status 99"},
		{"redirect to another host", redirected, invalidResponse, "unexpected redirect (status 307); redirects are not followed"},
	}
}

// connection serves connections with a handler and without TLS.
func connection(handler func(net.Conn)) func(*network) {
	return func(n *network) { n.vendor.handle(handler) }
}

// secure makes the vendor answer as documented, with another TLS configuration.
func secure(config func(*network) *tls.Config) func(*network) {
	return func(n *network) { n.vendor.handle(withTLS(config(n), serving(n.T, n.Sim))) }
}

// answered answers each HTTP request with a fault.
func answered(fault http.HandlerFunc) func(*network) {
	return func(n *network) {
		n.vendor.handle(withTLS(n.authority.issue(n.T, "127.0.0.1", 24*time.Hour), serving(n.T, fault)))
	}
}

// raw answers each connection's first bytes with a text and then a function; if that is nil, with
// the bytes themselves.
func raw(text string, then func(net.Conn)) func(*network) {
	return func(n *network) {
		n.vendor.handle(withTLS(n.authority.issue(n.T, "127.0.0.1", 24*time.Hour), func(conn net.Conn) {
			defer func() { _ = conn.Close() }()
			request := make([]byte, 16<<10)
			size, err := bufio.NewReader(conn).Read(request)
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text)
			if then != nil {
				then(conn)
				return
			}
			_, _ = conn.Write(request[:size])
		}))
	}
}

// redirected redirects to another address, and fails the test if that is called.
func redirected(n *network) {
	n.other.handle(func(conn net.Conn) {
		assert.Fail(n.T, "a redirect was followed")
		_ = conn.Close()
	})
	answered(vendorsim.RedirectTo(http.StatusTemporaryRedirect, "https://"+otherAddress+"/"))(n)
}

// hang reads until the caller closes the connection, without an answer.
func hang(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// drip calls a function every 50 ms until the caller closes the connection.
func drip(r *http.Request, drop func() error) {
	_, _ = io.Copy(io.Discard, r.Body) // the server then notices that the caller disconnects
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
