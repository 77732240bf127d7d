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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/version"
)

// maxBody bounds the body of a response, and its header, in bytes. Tokens of 64 KiB occur;
// a response over 1 MiB is not a token response.
const maxBody = 1 << 20

// A Client is the HTTP client of one credential. It is safe for concurrent use.
type Client struct {
	replaced http.RoundTripper // set in tests
	dial     DialFunc          // nil for the default
	proxy    *url.URL          // nil for that of the environment
	identity *tls.Certificate  // the client's certificate (RFC 8705); nil for none
	roots    *x509.CertPool    // nil for the system's
	timeout  time.Duration
	clocks   *Clocks
	pacer    *pacing.Pacer
	limit    float64 // that the definition of the vendor states, in requests a second; zero for none

	transient []string // the vendor's own error codes, in addition to transientCodes
	errorAt   string   // the JSON Pointer of the vendor's error code; "" for the usual places
}

// ClientOptions configure a [Client].
type ClientOptions struct {
	// Timeout bounds one request, from dialing to the last byte of the response.
	Timeout time.Duration

	// CACert is the PEM of the certificate authorities to trust; empty for the system's.
	CACert string

	// ProxyURL is the proxy for all requests; empty for that of the environment.
	ProxyURL string

	// Transport replaces HTTP and everything below it, in tests.
	Transport http.RoundTripper

	// Dial replaces the network below TLS, in tests.
	Dial DialFunc

	// Clocks collects the vendors' clocks from responses; nil gives the client its own.
	Clocks *Clocks

	// Pacer paces the requests to each host; nil gives the client its own.
	Pacer *pacing.Pacer
}

// A DialFunc opens a connection, as [net.Dialer.DialContext] does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// NewClient returns a client that does not follow redirects, requires TLS 1.2 or later and
// takes proxies from the environment. It opens a new connection for each request, since
// exchanges are too rare for a persistent connection. Its errors are of kind Invalid.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{replaced: o.Transport, dial: o.Dial, timeout: o.Timeout, clocks: o.Clocks, pacer: o.Pacer}
	if c.clocks == nil {
		c.clocks = &Clocks{}
	}
	if c.pacer == nil {
		c.pacer = pacing.New(nil)
	}
	if o.ProxyURL != "" {
		proxy, err := parseProxy(o.ProxyURL)
		if err != nil {
			return nil, err
		}
		c.proxy = proxy
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

// WithErrors returns a client that also treats these error codes as transient. They are
// compared exactly. at is the JSON Pointer of the vendor's error code; "" for the usual places.
func (c *Client) WithErrors(transient []string, at string) *Client {
	if len(transient) == 0 && at == "" {
		return c
	}
	next := *c
	next.transient, next.errorAt = transient, at
	return &next
}

// WithCertificate returns a client that authenticates itself to servers with a certificate chain and its
// private key, both in PEM (RFC 8705). Its error is of kind Invalid.
func (c *Client) WithCertificate(chain, privateKey string) (*Client, error) {
	if err := CheckCertificate(chain, privateKey); err != nil {
		return nil, err
	}
	key, err := parsePrivateKey(privateKey)
	if err != nil {
		return nil, err
	}
	identity := &tls.Certificate{PrivateKey: key}
	blocks, _ := readPEM(chain)
	for _, block := range blocks {
		if block.label == "CERTIFICATE" {
			identity.Certificate = append(identity.Certificate, block.der)
		}
	}
	next := *c
	next.identity = identity
	return &next, nil
}

// parseProxy parses a proxy_url. Its error is of kind Invalid.
func parseProxy(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
		return nil, Errorf(Invalid, "proxy_url: not the URL of a proxy; use the form http://host:port, or https or socks5")
	case u.User != nil:
		return nil, Errorf(Invalid, "proxy_url: must not contain a user name or password, as a read returns the field; let the proxy admit this server by its address")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, Errorf(Invalid, "proxy_url: must not contain a path, a query or a fragment")
	}
	return u, nil
}

// transport returns a transport for one request. The next request may be a day away, and a
// stored transport would be most of a credential's memory.
func (c *Client) transport() http.RoundTripper {
	if c.replaced != nil {
		return c.replaced
	}
	t := cleanhttp.DefaultTransport()
	dial := t.DialContext
	if c.dial != nil {
		dial = c.dial
	}
	// When a request is canceled, http.Transport goes on dialing for the next one. There is
	// no next one here, and the goroutine must not outlive the timeout.
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return dial(ctx, network, address)
	}
	t.TLSHandshakeTimeout = c.timeout
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots}
	if c.identity != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*c.identity}
	}
	if c.proxy != nil {
		t.Proxy = http.ProxyURL(c.proxy)
	}
	t.MaxResponseHeaderBytes = maxBody
	return t
}

// A Reply is a vendor's HTTP response with a 2xx status.
type Reply struct {
	Body   []byte // JSON; a form is converted
	Header http.Header
	Clock  Clock

	url        *url.URL
	status     int
	retryAfter time.Duration
	transient  []string // the client's
	errorAt    string   // the client's
	secrets    []string
}

// Do sends a request when it is its turn, and reads the response. Any failure, including a status
// other than 2xx, is an *Error. Its text may quote the vendor. secrets are those that the request
// contains; neither they nor those of [WithSecrets] appear in the text.
func (c *Client) Do(req *http.Request, secrets ...string) (*Reply, error) {
	isFirst := true
	return c.DoFresh(req.Context(), req.URL, func() (*http.Request, []string, error) {
		if isFirst {
			isFirst = false
			return req, secrets, nil
		}
		next, err := again(req)
		return next, secrets, err
	})
}

// DoFresh is Do for a request that must not be old when it is sent, such as one that is signed. build
// returns the request and the secrets in it; it is called each time that it is the turn of the request. to is
// the host that receives it. DoFresh returns the errors of build as they are.
func (c *Client) DoFresh(ctx context.Context, to *url.URL, build func() (*http.Request, []string, error)) (*Reply, error) {
	turn, err := c.pacer.Wait(ctx, HostOf(to), c.limit)
	if err != nil {
		return nil, notSent(to, err)
	}
	var last *Error
	for {
		reply, failure, mayRepeat, err := c.sendAt(ctx, turn, build)
		switch {
		case err != nil && last != nil: // it cannot be sent again
			return nil, last
		case err != nil:
			return nil, err
		case failure == nil:
			return reply, nil
		case !mayRepeat || turn.Again(ctx) != nil:
			return nil, failure
		}
		last = failure
	}
}

// send sends a request once. result is what its end says about the host.
func (c *Client) send(req *http.Request, secrets []string) (_ *Reply, result pacing.Result, _ *Error) {
	caller := req.Context()
	ctx, cancel := context.WithTimeout(caller, c.timeout)
	defer cancel()
	req = req.WithContext(ctx)
	req.Header.Set("User-Agent", "vault-plugin-secrets-tokenbroker/"+version.Version)
	req.Header.Set("Cache-Control", "no-cache, no-store") // RFC 9111 §5.2.1.4, §5.2.1.5
	host := req.URL.Host

	reply := &Reply{Clock: Clock{Sent: time.Now()}, url: req.URL, transient: c.transient, errorAt: c.errorAt, secrets: secrets}
	// Not an http.Client, which follows redirects and quotes them in its errors.
	resp, err := c.transport().RoundTrip(req)
	if err != nil {
		if caller.Err() == nil && c.isAboutHost(err) {
			result.Outcome, result.Cause = pacing.Failed, redact(transportReason(err), secrets)
		}
		return nil, result, noResponse(req.URL, err, secrets)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 {
		// The body of a 101 is the connection itself, and the timeout does not end a read.
		return nil, result, wrongURL(InvalidResponse, "%s: unexpected status %d", endpoint(req.URL), resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	reply.Body, reply.Header = asJSON(body), resp.Header
	reply.Clock.Received = time.Now()
	reply.Clock.Age = age(resp.Header.Get("Age"))
	if date, dateErr := http.ParseTime(resp.Header.Get("Date")); dateErr == nil {
		reply.Clock.Date = date
	}
	reply.retryAfter = retryAfter(resp.Header.Get("Retry-After"), reply.Clock)
	reply.Clock = reply.Clock.generated()
	c.clocks.learn(host, reply.Clock)

	reply.status = resp.StatusCode
	result = reply.aboutHost(err == nil || caller.Err() != nil)
	if err != nil {
		result.Cause = redact(transportReason(err), secrets)
	}
	var failure *Error
	switch status := resp.StatusCode; {
	case err != nil:
		failure = Errorf(Unavailable, "%s: the response broke off: %s", host, redact(transportReason(err), secrets))
		failure.Timeout = isTimeout(err)
	case len(body) > maxBody:
		failure = Errorf(InvalidResponse, "%s: the response is over 1 MiB", host)
	case status >= 200 && status < 300:
		return reply, result, nil
	case status >= 300 && status < 400:
		failure = wrongURL(InvalidResponse, "%s: unexpected redirect (status %d); redirects are not followed", endpoint(req.URL), status)
	default:
		failure = reply.Refusal()
	}
	failure.Clock = reply.Clock
	failure.RetryAfter = reply.retryAfter
	return nil, result, failure
}

// Clock returns the clock of a host as its last response showed it, whatever its status.
// It returns the zero Clock if there was no response.
func (c *Client) Clock(host string) Clock { return c.clocks.of(host) }

// age parses an Age header (RFC 9111 §5.1). It returns zero if there is none.
func age(header string) time.Duration {
	seconds, _ := wholeSeconds(header)
	return seconds
}

// wholeSeconds parses a header in seconds. A number over 2³¹-1 counts as 2³¹-1.
func wholeSeconds(header string) (time.Duration, bool) {
	if header == "" || strings.Trim(header, "0123456789") != "" {
		return 0, false
	}
	seconds, _ := strconv.ParseUint(header, 10, 31)
	return time.Duration(seconds) * time.Second, true
}

// retryAfter parses a Retry-After header (RFC 9110 §10.2.3): seconds, or a date by the
// vendor's clock. It returns zero if there is none.
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

// Decode decodes the response's JSON object, or form, into v. Its error is an *Error that
// does not quote the response, which may contain a token.
func (r *Reply) Decode(v any) error {
	if !bytes.HasPrefix(bytes.TrimSpace(r.Body), []byte("{")) || json.Unmarshal(r.Body, v) != nil {
		return r.NotJSON()
	}
	return nil
}

// transportReason returns the text of a transport's error, without any quote of the
// response.
func transportReason(err error) string {
	if isTimeout(err) {
		return "no response in time (request_timeout)"
	}
	if text := err.Error(); !strings.Contains(text, "malformed") { // net/http quotes the response after it
		return text
	}
	return "the response is not HTTP"
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}
