package provider

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func failing(err error) http.RoundTripper {
	return roundTrip(func(*http.Request) (*http.Response, error) { return nil, err })
}

func answering(status int, body string, header ...string) http.RoundTripper {
	return roundTrip(func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
}

func TestAWrongURLIsNamedAndIsNotARejection(t *testing.T) {
	const url = "https://vendor.example/oauth2/tokn"
	for name, test := range map[string]struct {
		vendor http.RoundTripper
		says   string
	}{
		"404":                            {answering(404, ""), "404 Not Found; no such endpoint"},
		"404, and a page":                {answering(404, "<html>"), "404 Not Found; no such endpoint"},
		"404, and an error":              {answering(404, `{"error":"not_found"}`), "404 Not Found: not_found; no such endpoint"},
		"405":                            {answering(405, ""), "405 Method Not Allowed; no such endpoint"},
		"410":                            {answering(410, ""), "410 Gone; no such endpoint"},
		"a redirect":                     {answering(302, "", "Location", "https://vendor.example/login?token=canary"), "unexpected redirect (status 302); redirects are not followed"},
		"a login page":                   {answering(200, " <!DOCTYPE html><title>Log in</title>"), "is not a JSON object but an HTML page"},
		"a text":                         {answering(200, "OK"), "is not a JSON object"},
		"another protocol":               {answering(101, ""), "unexpected status 101"},
		"an unknown host":                {failing(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "vendor.example", IsNotFound: true}}), "no such host"},
		"a certificate for another host": {failing(&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "vendor.example"}}), "certificate"},
		"no TLS":                         {failing(tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}), "first record does not look like a TLS handshake"},
		"HTTP without TLS":               {failing(http.ErrSchemeMismatch), "HTTP response to HTTPS client"},
		"a TLS alert":                    {failing(&net.OpError{Op: "remote error", Err: errors.New("tls: unrecognized name")}), "unrecognized name"},
	} {
		t.Run(name, func(t *testing.T) {
			reply, e := get(t, ClientOptions{Transport: test.vendor}, "https://user:canary@vendor.example/oauth2/tokn?refreshToken=canary")
			if e == nil {
				var answer struct{}
				require.ErrorAs(t, reply.Decode(&answer), &e)
			}
			var named *Error
			require.ErrorAs(t, CheckField(e, "token_url"), &named)
			assert.Contains(t, named.Reason, url)
			assert.Contains(t, named.Reason, test.says)
			assert.True(t, strings.HasSuffix(named.Reason, "; check token_url"), named.Reason)
			assert.NotContains(t, named.Reason, "canary")
			assert.NotContains(t, []Kind{Rejected, Expired}, named.Kind)
			assert.False(t, named.Outage())
		})
	}
}

func TestAFailureUnrelatedToTheURLNamesNoField(t *testing.T) {
	for name, test := range map[string]struct {
		vendor http.RoundTripper
		kind   Kind
		outage bool
	}{
		"429":                        {answering(429, ""), Unavailable, true},
		"503":                        {answering(503, "<html>"), Unavailable, true},
		"404, with Retry-After":      {answering(404, "", "Retry-After", "2"), Unavailable, true},
		"404, invalid_client":        {answering(404, `{"error":"invalid_client"}`), Rejected, false},
		"403, and a page":            {answering(403, "<html>"), Rejected, false},
		"a timeout":                  {failing(&net.DNSError{Err: "i/o timeout", IsTimeout: true}), Unavailable, true},
		"a resolver failure":         {failing(&net.DNSError{Err: "server misbehaving", IsTemporary: true}), Unavailable, false},
		"connection refused":         {failing(&net.OpError{Op: "dial", Err: errors.New("connection refused")}), Unavailable, false},
		"an unknown proxy":           {failing(&net.OpError{Op: "proxyconnect", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}), Unavailable, false},
		"a truncated response":       {answering(200, `{"access_token":"at-`), InvalidResponse, false},
		"a response without a token": {answering(200, `{}`), 0, false},
		"a rejection without a body": {answering(401, ""), Rejected, false},
	} {
		t.Run(name, func(t *testing.T) {
			reply, e := get(t, ClientOptions{Transport: test.vendor}, "https://vendor.example/oauth2/token?refreshToken=canary")
			if e == nil {
				var answer struct{}
				if err := reply.Decode(&answer); err != nil {
					require.ErrorAs(t, err, &e)
				}
			}
			if test.kind == 0 {
				require.Nil(t, e)
				return
			}
			require.Equal(t, test.kind, e.Kind, e.Reason)
			assert.Equal(t, test.outage, e.Outage())
			assert.Same(t, e, CheckField(e, "token_url"))
			assert.NotContains(t, e.Reason, "canary")
		})
	}
}

// Only then can a code be sent again.
func TestARequestThatTheVendorHasNotConsideredIsKnown(t *testing.T) {
	for name, test := range map[string]struct {
		vendor http.RoundTripper
		is     bool
	}{
		"429":                 {answering(429, ""), true},
		"503":                 {answering(503, ""), true},
		"500":                 {answering(500, ""), false},
		"502":                 {answering(502, ""), false},
		"504":                 {answering(504, ""), false},
		"401":                 {answering(401, ""), false},
		"connection refused":  {failing(&net.OpError{Op: "dial", Err: errors.New("connection refused")}), true},
		"an unknown host":     {failing(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}), true},
		"no proxy":            {failing(&net.OpError{Op: "proxyconnect", Err: errors.New("connection refused")}), true},
		"a connection reset":  {failing(&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}), false},
		"the end of a stream": {failing(io.EOF), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, e := get(t, ClientOptions{Transport: test.vendor}, "https://vendor.example/oauth2/token")
			assert.Equal(t, test.is, e.NotConsidered, e.Reason)
		})
	}
}
