package provider_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A host answers the requests of a test. It is a transport.
type host func(r *http.Request) (*http.Response, error)

func (h host) RoundTrip(r *http.Request) (*http.Response, error) { return h(r) }

func answer(status int, header map[string]string) *http.Response {
	all := http.Header{"Content-Type": {"application/json"}}
	for name, value := range header {
		all.Set(name, value)
	}
	return &http.Response{StatusCode: status, Header: all, Body: io.NopCloser(strings.NewReader(`{"a":"b"}`))}
}

// A pacedClient is a client of a host, and its pacer.
type pacedClient struct {
	*provider.Client
	pacer *pacing.Pacer
}

func newPaced(t *testing.T, h host, proxy string) pacedClient {
	t.Helper()
	p := pacing.New(nil)
	c, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second, Transport: h, Pacer: p, ProxyURL: proxy})
	require.NoError(t, err)
	return pacedClient{c, p}
}

// post sends a request of a name.
func (c pacedClient) post(ctx context.Context, name string) error {
	ctx = pacing.With(ctx, pacing.NewAdmission(name, pacing.Awaited))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://API.example.com:443/token", strings.NewReader("body of "+name))
	if err != nil {
		return err
	}
	_, err = c.Do(req)
	return err
}

// postAll sends a request of each of a number of names at once, and returns the errors.
func (c pacedClient) postAll(t *testing.T, names int) []error {
	t.Helper()
	errs := make([]error, names)
	var all sync.WaitGroup
	for n := range names {
		all.Go(func() { errs[n] = c.post(t.Context(), fmt.Sprint("name", n)) })
	}
	all.Wait()
	return errs
}

func TestGuarantee16ARequestThatABusyHostHasTurnedAwayIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		bodies := map[string]int{}
		c := newPaced(t, func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			bodies[string(body)]++
			isTurnedAway := bodies[string(body)] == 1 && len(bodies)%10 == 5 && len(bodies) <= 75 // others wait or are under way
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			if isTurnedAway {
				return answer(http.StatusTooManyRequests, nil), nil
			}
			return answer(http.StatusOK, nil), nil
		}, "")
		for _, err := range c.postAll(t, 100) {
			require.NoError(t, err)
		}
		require.Len(t, bodies, 100)
		sentTwice := 0
		for body, sent := range bodies {
			require.LessOrEqual(t, sent, 2, body)
			sentTwice += sent - 1
		}
		assert.Equal(t, 8, sentTwice)
		assert.EqualValues(t, 8, c.pacer.Status("api.example.com").Throttled)
	})
}

func TestOnlyAThrottledRequestIsSentAgain(t *testing.T) {
	for status, repeats := range map[int]bool{
		http.StatusTooManyRequests: true, http.StatusServiceUnavailable: false, http.StatusInternalServerError: false, http.StatusBadRequest: false, http.StatusUnauthorized: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			bodies := map[string]int{}
			refused := "" // the body of the 50th request, so others wait or are under way
			c := newPaced(t, func(r *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				bodies[string(body)]++
				if len(bodies) == 50 && refused == "" {
					refused = string(body)
				}
				isRefused := string(body) == refused
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
				if isRefused {
					return answer(status, nil), nil
				}
				return answer(http.StatusOK, nil), nil
			}, "")
			var failure *provider.Error
			require.ErrorAs(t, errors.Join(c.postAll(t, 100)...), &failure)
			assert.Equal(t, status, failure.Status, "the last answer of the vendor")
			assert.False(t, failure.NotSent)
			assert.Equal(t, repeats, bodies[refused] > 1, "status %d: sent %d times", status, bodies[refused])
		})
	}
}

func TestARequestOfAQuietHostIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		c := newPaced(t, func(*http.Request) (*http.Response, error) {
			sent++
			return answer(http.StatusTooManyRequests, map[string]string{"Retry-After": "30"}), nil
		}, "")
		var failure *provider.Error
		require.ErrorAs(t, c.post(t.Context(), "name"), &failure)
		assert.Equal(t, 30*time.Second, failure.RetryAfter)
		assert.Equal(t, 1, sent)
	})
}

func TestARequestThatIsNotSentIsNotAFailureOfTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPaced(t, func(*http.Request) (*http.Response, error) { return answer(http.StatusOK, nil), nil }, "")
		c.pacer.SetStated(map[string]float64{"api.example.com": 1})
		began := time.Now()
		served, unsent := 0, 0
		for _, err := range c.postAll(t, 100) {
			var failure *provider.Error
			switch {
			case err == nil:
				served++
			case errors.As(err, &failure):
				unsent++
				assert.Equal(t, provider.Unavailable, failure.Kind)
				assert.True(t, failure.NotSent)
				assert.True(t, failure.NotConsidered)
				assert.WithinRange(t, failure.NotBefore, began.Add(pacing.Patience), began.Add(100*time.Second))
				assert.False(t, failure.Throttled(), "the vendor has said nothing")
			}
		}
		assert.InDelta(t, 31, served, 1)
		assert.Equal(t, 100, served+unsent)
		assert.LessOrEqual(t, time.Since(began), pacing.Patience)
	})
}

func TestWhatAnOperatorHasSetSaysNothingAboutTheHost(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connection refused")}
	for name, c := range map[string]struct {
		err     error
		proxy   string
		expires time.Duration
		isDown  bool
	}{
		"the host refuses connections": {err: refused, isDown: true},
		"the host does not answer":     {err: nil, isDown: true},
		"a proxy of the credential":    {err: refused, proxy: "http://proxy.example.com:3128"},
		"a proxy of the server":        {err: &net.OpError{Op: "proxyconnect", Net: "tcp", Err: refused}},
		"an unknown authority":         {err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}},
		"a name that does not exist":   {err: &net.DNSError{IsNotFound: true}},
		"the caller has given up":      {err: nil, expires: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPaced(t, func(r *http.Request) (*http.Response, error) {
					if c.err != nil {
						return nil, c.err
					}
					<-r.Context().Done()
					return nil, r.Context().Err()
				}, c.proxy)
				for n := range 10 {
					ctx, cancel := context.WithCancel(t.Context())
					if c.expires > 0 {
						ctx, cancel = context.WithTimeout(t.Context(), c.expires)
					}
					require.Error(t, p.post(ctx, fmt.Sprint("name", n)))
					cancel()
				}
				assert.Equal(t, c.isDown, p.pacer.Status("api.example.com").IsDown())
				if c.isDown {
					var failure *provider.Error
					require.ErrorAs(t, p.post(t.Context(), "another"), &failure)
					assert.False(t, failure.NotSent, "it counts as a failure, as it would have failed")
					assert.NotContains(t, failure.Reason, "/token", "the URL of another credential")
				}
			})
		})
	}
}

func TestGuarantee16RateLimitHeadersAreObeyed(t *testing.T) {
	for name, header := range map[string]func(left, seconds int, now time.Time) map[string]string{
		"RateLimit-Remaining": func(left, seconds int, _ time.Time) map[string]string {
			return map[string]string{"RateLimit-Remaining": fmt.Sprint(left), "RateLimit-Reset": fmt.Sprint(seconds)}
		},
		"X-RateLimit-Remaining": func(left, seconds int, now time.Time) map[string]string {
			return map[string]string{"X-RateLimit-Remaining": fmt.Sprint(left), "X-RateLimit-Reset": fmt.Sprint(now.Unix() + int64(seconds))}
		},
		"X-Rate-Limit-Remaining": func(left, seconds int, now time.Time) map[string]string {
			return map[string]string{"X-Rate-Limit-Remaining": fmt.Sprint(left), "X-Rate-Limit-Reset": fmt.Sprint(now.Unix() + int64(seconds))}
		},
		"RateLimit": func(left, seconds int, _ time.Time) map[string]string {
			return map[string]string{"RateLimit": fmt.Sprintf(`"default";r=%d;t=%d, "daily";r=1000;t=3600`, left, seconds)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, sent := time.Now(), 0
				c := newPaced(t, func(*http.Request) (*http.Response, error) {
					sent++
					left := 10 - int(time.Since(began).Seconds())
					if left <= 0 {
						return answer(http.StatusOK, nil), nil
					}
					return answer(http.StatusOK, header(max(0, 8-sent), left, time.Now())), nil
				}, "")
				for n := range 9 {
					require.NoError(t, c.post(t.Context(), fmt.Sprint("name", n)))
					if n == 7 {
						assert.Zero(t, time.Since(began))
					}
				}
				assert.Equal(t, 10*time.Second, time.Since(began))
			})
		})
	}
}

func TestAPanicOfTheTransportLeavesTheHostUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := true
		c := newPaced(t, func(*http.Request) (*http.Response, error) {
			if panics {
				panic("in the transport")
			}
			return answer(http.StatusOK, nil), nil
		}, "")
		for n := range 100 { // more than can be under way
			assert.Panics(t, func() { _ = c.post(t.Context(), fmt.Sprint("name", n)) })
		}
		panics = false
		require.NoError(t, c.post(t.Context(), "name"))
	})
}
