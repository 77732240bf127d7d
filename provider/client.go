package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"vault-plugin-secrets-tokenbroker/internal/version"
)

// maxBody is how much of an answer is read, and of its headers. Tokens of 64 KiB occur;
// an answer over a megabyte is something else.
const maxBody = 1 << 20

// A Client is one credential's way to its vendor.
type Client struct {
	replaced http.RoundTripper // in tests
	dial     DialFunc          // nil is the network's
	roots    *x509.CertPool    // nil is the system's
	timeout  time.Duration
	clocks   *Clocks

	transient []string // the vendor's own error codes, beside transientCodes
}

// ClientOptions are what a credential decides about its client.
type ClientOptions struct {
	// Timeout bounds one request, from dialling to the last byte of the answer.
	Timeout time.Duration

	// CACert, if not empty, is PEM of the only authorities to trust.
	CACert string

	// Transport replaces HTTP and all below it, in tests.
	Transport http.RoundTripper

	// Dial replaces the network below TLS, in tests.
	Dial DialFunc

	// Clocks are where to note what answers show of the vendors' clocks; nil has the
	// client know those of its own answers only.
	Clocks *Clocks
}

// A DialFunc opens a connection, as [net.Dialer.DialContext] does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// NewClient makes a client that follows no redirect, speaks TLS 1.2 and up, takes
// proxies from the environment and dials anew for each request: exchanges are too
// rare to keep connections for. Its errors are of kind Invalid.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{replaced: o.Transport, dial: o.Dial, timeout: o.Timeout, clocks: o.Clocks}
	if c.clocks == nil {
		c.clocks = &Clocks{}
	}
	if o.CACert != "" {
		certificates, err := Certificates(o.CACert)
		if err != nil {
			return nil, err
		}
		c.roots = x509.NewCertPool()
		for _, certificate := range certificates {
			c.roots.AddCert(certificate)
		}
	}
	return c, nil
}

// WithTransient returns a client that also takes these error codes, as they are written, for
// failures that pass by themselves.
func (c *Client) WithTransient(codes []string) *Client {
	if len(codes) == 0 {
		return c
	}
	next := *c
	next.transient = codes
	return &next
}

// transport is for one request. Kept for the next, which may be a day away, it would be
// most of what a credential takes of memory.
func (c *Client) transport() http.RoundTripper {
	if c.replaced != nil {
		return c.replaced
	}
	t := cleanhttp.DefaultTransport()
	dial := t.DialContext
	if c.dial != nil {
		dial = c.dial
	}
	// A transport goes on opening a connection when its request has ended, for the next
	// one. There is none here, and no goroutine may outlive the timeout.
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return dial(ctx, network, address)
	}
	t.TLSHandshakeTimeout = c.timeout
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots}
	t.MaxResponseHeaderBytes = maxBody
	return t
}

// A Reply is a vendor's answer of status 2xx.
type Reply struct {
	Body  []byte // a form is converted to JSON
	Clock Clock

	url        *url.URL
	status     int
	retryAfter time.Duration
	transient  []string // the client's
	secrets    []string
}

// Do sends a request and reads the answer. Any failure, an answer of another
// status than 2xx included, is an *Error; its text may quote the vendor, but none
// of the secrets, which are those that the request carries, and those of [WithSecrets].
func (c *Client) Do(req *http.Request, secrets ...string) (*Reply, error) {
	ctx, cancel := context.WithTimeout(req.Context(), c.timeout)
	defer cancel()
	req = req.WithContext(ctx)
	req.Header.Set("User-Agent", "vault-plugin-secrets-tokenbroker/"+version.Version)
	req.Header.Set("Cache-Control", "no-cache, no-store") // RFC 9111 §5.2.1.4, §5.2.1.5
	host := req.URL.Host
	secrets = append(secretsOf(ctx), secrets...)

	reply := &Reply{Clock: Clock{Sent: time.Now()}, url: req.URL, transient: c.transient, secrets: secrets}
	// An http.Client would parse, follow and quote redirects, none of which is wanted.
	resp, err := c.transport().RoundTrip(req)
	if err != nil {
		return nil, unanswered(req.URL, err, secrets)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 {
		// Of 101 the body is the bare connection, which no timeout ends.
		return nil, wrongURL(InvalidResponse, "%s: answered with status %d, which is not an answer to a request", endpoint(req.URL), resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	reply.Body = asJSON(body)
	reply.Clock.Received = time.Now()
	reply.Clock.Age = age(resp.Header.Get("Age"))
	if date, dateErr := http.ParseTime(resp.Header.Get("Date")); dateErr == nil {
		reply.Clock.Date = date
	}
	reply.retryAfter = retryAfter(resp.Header.Get("Retry-After"), reply.Clock)
	reply.Clock = reply.Clock.generated()
	c.clocks.learn(host, reply.Clock)

	reply.status = resp.StatusCode
	var failure *Error
	switch status := resp.StatusCode; {
	case err != nil:
		failure = Errorf(Unavailable, "%s: the answer broke off: %s", host, redact(transportReason(err), secrets))
		failure.Timeout = isTimeout(err)
	case len(body) > maxBody:
		failure = Errorf(InvalidResponse, "%s: the answer is over 1 MiB", host)
	case status >= 200 && status < 300:
		return reply, nil
	case status >= 300 && status < 400:
		failure = wrongURL(InvalidResponse, "%s: answered with a redirect (%d), which is not followed", endpoint(req.URL), status)
	default:
		failure = reply.Refusal()
	}
	failure.Clock = reply.Clock
	failure.RetryAfter = reply.retryAfter
	return nil, failure
}

// Clock is the clock of a host as its last answer showed it, refusals included; the zero
// Clock if none has.
func (c *Client) Clock(host string) Clock { return c.clocks.of(host) }

// age reads the header of that name (RFC 9111 §5.1); zero if there is none.
func age(header string) time.Duration {
	seconds, _ := wholeSeconds(header)
	return seconds
}

// wholeSeconds reads a header in seconds: the greatest that there can be, if it is past that.
func wholeSeconds(header string) (time.Duration, bool) {
	if header == "" || strings.Trim(header, "0123456789") != "" {
		return 0, false
	}
	seconds, _ := strconv.ParseUint(header, 10, 31)
	return time.Duration(seconds) * time.Second, true
}

// retryAfter reads the header of that name (RFC 9110 §10.2.3): seconds, or a date
// by the vendor's clock.
func retryAfter(header string, clock Clock) time.Duration {
	if seconds, ok := wholeSeconds(header); ok {
		return seconds
	}
	date, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	now := clock.Received
	if clock.generated().Believed() {
		now = clock.Date.Add(clock.Age)
	}
	return max(0, date.Sub(now))
}

// Decode reads the answer's JSON object, or form, into v. Its error quotes nothing of the
// answer, which may hold a token.
func (r *Reply) Decode(v any) error {
	if !bytes.HasPrefix(bytes.TrimSpace(r.Body), []byte("{")) || json.Unmarshal(r.Body, v) != nil {
		return r.notJSON()
	}
	return nil
}

// transportReason is what went wrong on the way.
func transportReason(err error) string {
	if isTimeout(err) {
		return "no answer in time (request_timeout)"
	}
	if text := err.Error(); !strings.Contains(text, "malformed") { // by which net/http quotes what came
		return text
	}
	return "the answer is not HTTP"
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}
