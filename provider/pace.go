package provider

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

// HostOf returns the host of a URL, with the port unless it is the usual one, in lower case. Requests
// to a host are paced together.
func HostOf(u *url.URL) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(u.Host), ":443"), ":80")
}

// WithLimit returns a client whose requests count against a limit that the definition of the vendor
// states, in requests a second to each host; zero for none.
func (c *Client) WithLimit(perSecond float64) *Client {
	next := *c
	next.limit = perSecond
	return &next
}

// sendAt builds a request whose turn it is, sends it, and records how it ended, even if the transport
// panics.
func (c *Client) sendAt(ctx context.Context, turn *pacing.Turn, build func() (*http.Request, []string, error)) (reply *Reply, failure *Error, mayRepeat bool, err error) {
	var result pacing.Result
	defer func() { mayRepeat = turn.Answered(result) }()
	if check := checkOf(ctx); check != nil {
		if err := check(); err != nil {
			return nil, nil, false, err
		}
	}
	req, secrets, err := build()
	if err != nil {
		return nil, nil, false, err
	}
	turn.Started()
	reply, result, failure = c.send(req, append(secretsOf(req.Context()), secrets...))
	return reply, failure, false, nil
}

// aboutHost returns what a response says about its host. isWhole is false if the host broke it off.
func (r *Reply) aboutHost(isWhole bool) pacing.Result {
	result := pacing.Result{Outcome: pacing.Accepted, RetryAfter: r.retryAfter, Quota: quotaOf(r.Header, r.Clock)}
	switch {
	case r.status == http.StatusTooManyRequests:
		result.Outcome = pacing.Throttled
	case r.status >= http.StatusInternalServerError || !isWhole:
		result.Outcome = pacing.Failed
		result.Cause = strings.TrimSpace(fmt.Sprintf("status %d %s", r.status, http.StatusText(r.status)))
	}
	return result
}

type checkKey struct{}

// WithCheck returns a context in which check is called before each request is sent, when it is its turn.
// If check returns an error, the request is not sent, and [Client.Do] returns that error.
func WithCheck(ctx context.Context, check func() error) context.Context {
	return context.WithValue(ctx, checkKey{}, check)
}

func checkOf(ctx context.Context) func() error {
	check, _ := ctx.Value(checkKey{}).(func() error)
	return check
}

// isAboutHost reports whether a request without an answer says something about the host: not if a proxy, a
// certificate or a name that the operator has set may be the cause.
func (c *Client) isAboutHost(err error) bool {
	var dns *net.DNSError
	isName := errors.As(err, &dns) && dns.IsNotFound
	return c.proxy == nil && !isProxyError(err) && !isTLSError(err) && !isName
}

// again returns a copy of a request to send once more.
func again(req *http.Request) (*http.Request, error) {
	next := req.Clone(req.Context())
	if req.Body == nil || req.Body == http.NoBody {
		return next, nil
	}
	if req.GetBody == nil {
		return nil, Errorf(Unavailable, "%s: the request cannot be sent again", req.URL.Host)
	}
	body, err := req.GetBody()
	next.Body = body
	return next, err
}

// notSent returns the error of a request that was not sent.
func notSent(u *url.URL, err error) *Error {
	e := Errorf(Unavailable, "%s", err)
	e.NotConsidered, e.NotSent = true, true
	var late *pacing.NotSentError
	var down *pacing.DownError
	switch {
	case errors.As(err, &late):
		e.NotBefore = late.Next
	case errors.As(err, &down):
		e.NotBefore = down.Next
	case errors.Is(err, context.DeadlineExceeded):
		e.Reason = u.Host + ": not sent in time"
	}
	return e
}

// quotaOf returns what the RateLimit headers of an answer state: those of
// draft-ietf-httpapi-ratelimit-headers in its older form (RateLimit-Remaining, RateLimit-Reset) and its
// newer one (RateLimit), and the common X-RateLimit-* and X-Rate-Limit-*, whose reset may be a time.
func quotaOf(header http.Header, clock Clock) pacing.Quota {
	if quota := structuredQuota(header.Get("RateLimit")); quota.IsStated {
		return quota
	}
	for _, prefix := range []string{"RateLimit-", "X-RateLimit-", "X-Rate-Limit-"} {
		remaining, hasRemaining := wholeNumber(header.Get(prefix + "Remaining"))
		reset, hasReset := wholeNumber(header.Get(prefix + "Reset"))
		if hasRemaining && hasReset {
			return pacing.Quota{IsStated: true, Remaining: remaining, Reset: untilReset(reset, clock)}
		}
	}
	return pacing.Quota{}
}

// structuredQuota returns the quota of the first policy in a RateLimit header, such as
// "default";r=50;t=30.
func structuredQuota(header string) pacing.Quota {
	first, _, _ := strings.Cut(header, ",")
	var quota pacing.Quota
	for _, parameter := range strings.Split(first, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		number, is := wholeNumber(value)
		switch {
		case !is:
		case name == "r":
			quota.Remaining, quota.IsStated = number, true
		case name == "t":
			quota.Reset = time.Duration(number) * time.Second
		}
	}
	return quota
}

// firstEpoch is the least reset that is a Unix time (of 1973), and not a number of seconds (three years).
const firstEpoch = 100_000_000

// untilReset returns how long it is until a reset, in seconds or as a Unix time by the vendor's clock.
func untilReset(reset int, clock Clock) time.Duration {
	if reset < firstEpoch {
		return time.Duration(reset) * time.Second
	}
	now := clock.Received
	if clock.Believed() {
		now = clock.Date.Add(clock.Age)
	}
	return time.Unix(int64(reset), 0).Sub(now)
}

func wholeNumber(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil
}
