package provider

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func get(t *testing.T, o ClientOptions, url string) (*Reply, *Error) {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	client, err := NewClient(o)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	reply, err := client.Do(req)
	if err == nil {
		return reply, nil
	}
	var e *Error
	require.ErrorAs(t, err, &e)
	return nil, e
}

func TestOnlyTheGivenAuthorityIsTrusted(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer server.Close()
	_, e := get(t, ClientOptions{}, server.URL)
	require.NotNil(t, e)
	assert.Equal(t, Unavailable, e.Kind)
	assert.Contains(t, e.Reason, "certificate")

	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	reply, e := get(t, ClientOptions{CACert: ca}, server.URL)
	require.Nil(t, e)
	assert.False(t, reply.Clock.Date.IsZero())
	assert.False(t, reply.Clock.Received.Before(reply.Clock.Sent))
}

func TestARedirectIsNotFollowed(t *testing.T) {
	followed := false
	mux := http.NewServeMux()
	mux.HandleFunc("/from", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/to", http.StatusFound) })
	mux.HandleFunc("/to", func(http.ResponseWriter, *http.Request) { followed = true })
	server := httptest.NewServer(mux)
	defer server.Close()
	_, e := get(t, ClientOptions{}, server.URL+"/from")
	require.NotNil(t, e)
	assert.Equal(t, InvalidResponse, e.Kind)
	assert.False(t, followed)
}

func TestAnInvalidRedirectIsNotParsed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://a.example/%zz?token=canary")
		w.WriteHeader(http.StatusFound)
	}))
	defer server.Close()
	_, e := get(t, ClientOptions{}, server.URL)
	require.NotNil(t, e)
	assert.Equal(t, InvalidResponse, e.Kind)
	assert.NotContains(t, e.Reason, "canary")
}

func TestATransportErrorDoesNotQuoteTheURL(t *testing.T) {
	_, e := get(t, ClientOptions{}, "http://"+refusing(t)+"/refresh?refreshToken=canary")
	require.NotNil(t, e)
	assert.Equal(t, Unavailable, e.Kind)
	assert.Contains(t, e.Reason, "connection refused")
	assert.NotContains(t, e.Reason, "canary")
}

// refusing returns an address that refuses connections until the test ends. Its socket is bound
// but does not listen, so that no other process can take the port.
func refusing(t *testing.T) string {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, syscall.Close(socket)) })
	require.NoError(t, syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, err := syscall.Getsockname(socket)
	require.NoError(t, err)
	return fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
}

func TestAConnectionResetIsTransient(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if assert.NoError(t, err) {
			assert.NoError(t, conn.(*net.TCPConn).SetLinger(0))
			assert.NoError(t, conn.Close())
		}
	}))
	defer server.Close()
	_, e := get(t, ClientOptions{}, server.URL)
	require.NotNil(t, e)
	assert.Equal(t, Unavailable, e.Kind)
	assert.Contains(t, e.Reason, "connection reset by peer")
}

func TestAResponseThatBreaksOffIsTransient(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"access`))
	}))
	defer server.Close()
	_, e := get(t, ClientOptions{}, server.URL)
	require.NotNil(t, e)
	assert.Equal(t, Unavailable, e.Kind)
	assert.Contains(t, e.Reason, "broke off")
}

func TestTransportSettings(t *testing.T) {
	client, err := NewClient(ClientOptions{})
	require.NoError(t, err)
	transport, ok := client.transport().(*http.Transport)
	require.True(t, ok)
	assert.EqualValues(t, tls.VersionTLS12, transport.TLSClientConfig.MinVersion)
	assert.NotNil(t, transport.Proxy, "from the environment")
	assert.True(t, transport.DisableKeepAlives)
	assert.Nil(t, transport.TLSClientConfig.RootCAs, "the system's")
}

func TestTheErrorCodeDeterminesWhetherAFailureIsTransient(t *testing.T) {
	for _, code := range []string{
		"temporarily_unavailable", "server_error", "slow_down", "internal_error", "fatal_error", "service_unavailable",
		"ratelimited", "rate_limited", "request_timeout", "unknown_error", "backendError", "rateLimitExceeded",
		"INTERNAL_SERVER_ERROR", "too-many-requests", "Throttled", "try again later",
	} {
		for _, status := range []int{200, 400, 401, 403} {
			assert.Equal(t, Unavailable, kindOf(status, code, 0), "%d %s", status, code)
		}
	}
	for _, code := range []string{"", "invalid_grant", "invalid_client", "access_denied", "account_inactive", "invalid_auth", "error"} {
		for _, status := range []int{200, 400, 401, 403} {
			assert.Equal(t, Rejected, kindOf(status, code, 0), "%d %s", status, code)
		}
	}
}

func TestAResponseWithRetryAfterIsNotARejection(t *testing.T) {
	for _, status := range []int{200, 400, 401, 403, 409} {
		for _, code := range []string{"", "access_denied", "invalid_request", "unauthorized_client"} {
			assert.Equal(t, Unavailable, kindOf(status, code, 2*time.Second), "%d %s", status, code)
		}
		for _, code := range []string{"invalid_client", "invalid_grant"} {
			assert.Equal(t, Rejected, kindOf(status, code, 2*time.Second), "%d %s", status, code)
		}
	}
}

func TestTheStatusDeterminesTheKindOfError(t *testing.T) {
	for status, kind := range map[int]Kind{
		404: InvalidResponse, 405: InvalidResponse, 410: InvalidResponse, 400: Rejected, 401: Rejected, 403: Rejected, 409: Rejected, 418: Rejected,
		408: Unavailable, 425: Unavailable, 429: Unavailable, 500: Unavailable, 502: Unavailable, 503: Unavailable, 504: Unavailable,
	} {
		assert.Equal(t, kind, kindOf(status, "", 0), status)
	}
}

func TestAReasonIsQuotedFromWhatErrorAnswersHold(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":"invalid_client","error_description":"The client is disabled."}`:                   "invalid_client: The client is disabled.",
		`{"error":{"code":"E17","message":"temporarily_unavailable_for_you"}}`:                       "E17: temporarily_unavailable_for_you",
		`{"errorSummary":"no such key","other":"ignored"}`:                                           "no such key",
		`{"errors":[{"code":"E17","message":"no such client"},{"message":"or key"}]}`:                "E17: no such client: or key",
		`{"errors":["no such client"]}`:                                                              "no such client",
		`{"errors":{"message":"no such client"}}`:                                                    "no such client",
		`{"fault":{"faultstring":"Invalid APIKey","detail":{"errorcode":"oauth.v2.InvalidApiKey"}}}`: "Invalid APIKey: oauth.v2.InvalidApiKey",
		`{"type":"about:blank","title":"Forbidden","status":403,"detail":"no such client"}`:          "Forbidden: no such client",
		`{"msg":"no such client"}`:                                                                   "no such client",
		`{"errcode":40001,"errmsg":"invalid credential"}`:                                            "40001: invalid credential",
		`[{"errorCode":"INVALID_LOGIN","message":"no such user"}]`:                                   "INVALID_LOGIN: no such user",
		`{"Error":{"Code":"AccessDenied","Message":"no such user"}}`:                                 "AccessDenied: no such user",
		`{"error":"denied","message":"denied","title":"denied"}`:                                     "denied",
		`"no such client"`: "no such client",
		`error=invalid_client&error_description=The+client+is+disabled.`: "invalid_client: The client is disabled.",
		"\xef\xbb\xbf" + `{"error":"invalid_client"}`:                    "invalid_client",
		`{"unknown":"shape"}`:               "",
		`<html>sign in</html>`:              "",
		"\"words\\n  \\tover\\u0000lines\"": "words over lines",
		"plain text":                        "", "SSH-2.0-OpenSSH_9.6\r\n": "", "-ERR unknown command 'GET'": "", "root:x:0:0": "",
		"\xff\xfe": "",
		"":         "",
		`"token ` + strings.Repeat("aB3", 20) + ` is bad"`: "token [redacted] is bad",
	} {
		assert.Equal(t, want, reason(asJSON([]byte(body)), nil), body)
	}
	assert.Len(t, reason([]byte(`"`+strings.Repeat("a word ", 100)+`"`), nil), maxReason+len("…"))
}

func TestASecretIsRedactedInEveryForm(t *testing.T) {
	// Too short for its length to be the reason for the redaction.
	const secret = `p+s/w="d&1`
	for name, form := range map[string]string{
		"plain":           secret,
		"query":           `p%2Bs%2Fw%3D%22d%261`,
		"path":            `p+s%2Fw=%22d&1`,
		"JSON":            `p+s/w=\"d\u00261`,
		"JSON of PHP":     `p+s\/w=\"d&1`,
		"JSON of ASP.NET": `p\u002bs/w=\u0022d\u00261`,
		"HTML":            `p&#43;s/w=&#34;d&amp;1`,
		"upper case":      `P+S/W="D&1`,
		"base64":          "cCtzL3c9ImQmMQ==",
		"base64, no pads": "cCtzL3c9ImQmMQ",
	} {
		got := redact("you sent "+form+" to us", []string{secret})
		assert.NotContains(t, got, form, name)
		assert.Contains(t, got, mask, name)
	}
	assert.Equal(t, "invalid_grant: expired", redact("invalid_grant: expired", []string{secret}))
}

func TestASecretThatIsPartlyAWordIsRedactedEntirely(t *testing.T) {
	const secret = `0123456789abcdef0123&the rest`
	for _, form := range []string{strings.ToUpper(secret), `0123456789abcdef0123&amp;the rest`} {
		assert.Equal(t, "you sent "+mask, redact("you sent "+form, []string{secret}))
	}
}

func TestASecretThatLooksEscapedIsRedacted(t *testing.T) {
	for _, secret := range []string{`p\w&d`, `p%41w`, `p&amp;w`, `p\u0041w`} {
		for _, form := range []string{secret, strings.ToUpper(secret), html.EscapeString(secret)} {
			got := redact("you sent "+form+" to us", []string{secret})
			assert.NotContains(t, got, form)
			assert.Contains(t, got, mask, form)
		}
	}
}

func TestAnErrorCodeIsNotRedacted(t *testing.T) {
	for _, word := range []string{"temporarily_unavailable", "INVALID_REFRESH_TOKEN", "UnauthorizedClientException", "unsupported-response-type"} {
		assert.Equal(t, word, redact(word, nil))
	}
	for _, word := range []string{"aB3aB3aB3aB3aB3aB3aB3", "eyJhbGciOiJSUzI1NiJ9", "01-4d3c2b1a-0f9e8d7c6b5a", "QUJDREVGR0hJSktMTU5PUFFSUw=="} {
		assert.Equal(t, mask, redact(word, nil))
	}
}

func TestAVeryLargeRetryAfterIsCapped(t *testing.T) {
	for _, header := range []string{"2147483648", "99999999999999999999"} {
		assert.Greater(t, retryAfter(header, Clock{}), 365*24*time.Hour, header)
	}
	assert.Zero(t, retryAfter("99999999999999999999 o'clock", Clock{}))
}

func TestAPartlyEscapedSecretIsRedacted(t *testing.T) {
	for secret, form := range map[string]string{
		`p\w%41d&1`: `p\w%41d&amp;1`,
		`p\wd"1`:    `P\WD&quot;1`,
	} {
		assert.Equal(t, "you sent "+mask, redact("you sent "+form, []string{secret}))
	}
	assert.Equal(t, "invalid_grant", redact("invalid_grant", []string{`\`}), "without its escapes, nothing is left of it")
}

func TestTheAgeOfACachedResponseCounts(t *testing.T) {
	now := time.Now()
	date := now.Add(-time.Hour).UTC().Format(http.TimeFormat)
	reply, e := get(t, ClientOptions{Transport: answering(200, "{}", "Age", "3600", "Date", date)}, "https://vendor.example")
	require.Nil(t, e)
	assert.WithinRange(t, reply.Clock.Sent, now.Add(-time.Hour-time.Second), now.Add(-time.Hour+time.Minute))
	assert.Zero(t, reply.Clock.Skew())
	assert.True(t, reply.Clock.Believed())

	for _, none := range []string{"", "0", "-5", "+5", "1.5", "never"} {
		reply, e := get(t, ClientOptions{Transport: answering(200, "{}", "Age", none)}, "https://vendor.example")
		require.Nil(t, e)
		assert.False(t, reply.Clock.Sent.Before(now), none)
	}
	for _, large := range []string{"2147483648", "99999999999999999999"} { // RFC 9111 §1.2.2
		reply, e := get(t, ClientOptions{Transport: answering(200, "{}", "Age", large)}, "https://vendor.example")
		require.Nil(t, e)
		assert.Less(t, reply.Clock.Sent.Year(), now.Year()-60, large)
	}

	_, e = get(t, ClientOptions{Transport: answering(503, "", "Age", "3600", "Date", date, "Retry-After", now.Add(time.Minute).UTC().Format(http.TimeFormat))}, "https://vendor.example")
	require.NotNil(t, e)
	assert.InDelta(t, 60, e.RetryAfter.Seconds(), 2)
}

func TestNothingIsQuotedOfAServerThatDoesNotSpeakHTTP(t *testing.T) {
	for _, banner := range []string{"SSH-2.0-OpenSSH_9.6\r\n", "-ERR unknown command\r\n", "HTTP/1.1 OpenSSH canary\r\n\r\n", "HTTP/1.1 200 OK\r\nOpenSSH canary\r\n\r\n"} {
		dial := func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				_, _ = far.Read(make([]byte, 4096))
				_, _ = far.Write([]byte(banner))
				_ = far.Close()
			}()
			return near, nil
		}
		_, e := get(t, ClientOptions{Dial: dial}, "http://127.0.0.1:22/")
		require.NotNil(t, e)
		assert.Equal(t, Unavailable, e.Kind)
		assert.NotContains(t, e.Reason, "SSH")
		assert.NotContains(t, e.Reason, "ERR")
		assert.NotContains(t, e.Reason, "canary")
	}
}
