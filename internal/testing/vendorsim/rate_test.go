package vendorsim_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const refreshURL = "https://link-streaming.kensho.com/oauth2/refresh?refreshToken=r"

// newLimited returns a Sim with a rate and the refresh token r of Kensho.
func newLimited(rate vendorsim.Rate) *vendorsim.Sim {
	sim := vendorsim.New()
	sim.AddRefreshToken("link-streaming", "r")
	sim.Behave(vendorsim.Conduct{Rate: rate})
	return sim
}

// send sends requests, at intervals, and returns how many the vendor accepts.
func send(t *testing.T, sim http.Handler, requests int, interval time.Duration) (accepted int) {
	t.Helper()
	for range requests {
		status, _ := call(t, sim, http.MethodGet, refreshURL, nil, "")
		if status == http.StatusOK {
			accepted++
		} else {
			assert.Equal(t, http.StatusTooManyRequests, status)
		}
		time.Sleep(interval)
	}
	return accepted
}

func TestATokenBucketAcceptsItsBurstAndThenItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{PerSecond: 10, Burst: 5})
		assert.Equal(t, 5, send(t, sim, 20, 0))
		time.Sleep(200 * time.Millisecond)
		assert.Equal(t, 2, send(t, sim, 20, 0))
		time.Sleep(time.Minute)
		assert.Equal(t, 5, send(t, sim, 20, 0), "a pause fills no more than the bucket")
		time.Sleep(100 * time.Millisecond)
		assert.Equal(t, 100, send(t, sim, 100, 100*time.Millisecond), "all requests at the rate")
		assert.Equal(t, 10, send(t, sim, 20, 50*time.Millisecond), "every second one at twice the rate")
	})
}

func TestAWindowAcceptsItsRequestsAtAnyTimeWithinIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{PerSecond: 5, Window: 2 * time.Second})
		time.Sleep(1900 * time.Millisecond)
		assert.Equal(t, 10, send(t, sim, 20, 0))
		time.Sleep(100 * time.Millisecond)
		assert.Equal(t, 10, send(t, sim, 20, 0), "the next window begins 0.1 s later")
		time.Sleep(1999 * time.Millisecond)
		assert.Equal(t, 0, send(t, sim, 20, 0))
	})
}

func TestAVendorWithoutARateAcceptsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{})
		assert.Equal(t, 1000, send(t, sim, 1000, 0))
		assert.Equal(t, vendorsim.Traffic{Accepted: 1000, Last: time.Now()}, sim.Traffic("link-streaming.kensho.com"))
	})
}

func TestEachHostHasARateOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{PerSecond: 1})
		sim.AddRefreshToken("scribe", "s")
		assert.Equal(t, 1, send(t, sim, 2, 0))
		status, _ := call(t, sim, http.MethodGet, "https://scribe.kensho.com/oauth2/refresh?refresh_token=s", nil, "")
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, vendorsim.Traffic{}, sim.Traffic("kfinance.kensho.com"))
	})
}

func TestTrafficHasTheIdleTimeOfAVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{PerSecond: 10, Burst: 5})
		idle := func() time.Duration { return sim.Traffic("link-streaming.kensho.com").Idle }
		time.Sleep(time.Hour)
		assert.Zero(t, idle(), "nothing counts before the first request")
		send(t, sim, 7, 0)
		last := time.Now()
		time.Sleep(500 * time.Millisecond)
		assert.Zero(t, idle(), "five requests are work for half a second")
		time.Sleep(3 * time.Second)
		assert.Equal(t, 3*time.Second, idle())
		send(t, sim, 1, 0)
		assert.Equal(t, 3*time.Second, idle())
		time.Sleep(1100 * time.Millisecond)
		traffic := sim.Traffic("link-streaming.kensho.com")
		assert.Equal(t, vendorsim.Traffic{Accepted: 6, Throttled: 2, Last: last.Add(3500 * time.Millisecond), Idle: 4 * time.Second}, traffic)
	})
}

func TestTheHeadersOfARate(t *testing.T) {
	header := func(sim http.Handler) http.Header {
		w := httptest.NewRecorder()
		sim.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, refreshURL, nil))
		return w.Header()
	}
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{PerSecond: 0.1, Window: 20 * time.Second, RetryAfter: true, Headers: true})
		time.Sleep(12500 * time.Millisecond)
		first, second, third := header(sim), header(sim), header(sim)
		assert.Equal(t, []string{"2", "1", "8", ""},
			[]string{first.Get("RateLimit-Limit"), first.Get("RateLimit-Remaining"), first.Get("RateLimit-Reset"), first.Get("Retry-After")})
		assert.Equal(t, "0", second.Get("RateLimit-Remaining"))
		assert.Equal(t, []string{"0", "8", "8"}, []string{third.Get("RateLimit-Remaining"), third.Get("RateLimit-Reset"), third.Get("Retry-After")})
		assert.NotEmpty(t, third.Get("Date"))

		sim = newLimited(vendorsim.Rate{PerSecond: 0.25})
		send(t, sim, 1, 500*time.Millisecond)
		assert.Empty(t, header(sim).Get("Retry-After"))
		sim = newLimited(vendorsim.Rate{PerSecond: 0.25, RetryAfter: true})
		send(t, sim, 1, 500*time.Millisecond)
		assert.Equal(t, "4", header(sim).Get("Retry-After"), "3.5 s are left")
	})
}

func TestAThrottledRequestTakesTheLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newLimited(vendorsim.Rate{PerSecond: 1})
		send(t, sim, 1, 0)
		sim.Behave(vendorsim.Conduct{Rate: vendorsim.Rate{PerSecond: 1}, Latency: 300 * time.Millisecond})
		began := time.Now()
		assert.Zero(t, send(t, sim, 1, 0))
		assert.Equal(t, 300*time.Millisecond, time.Since(began))
	})
}

// Tokens of OAuth 2.0 servers can expire together, like Kensho's.
func TestTokensOfAPeriodExpireTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		sim.AddOAuthClient(vendorsim.OAuthClient{
			ID: "c", Secret: "s", AuthMethods: []string{vendorsim.SecretPost}, Grants: []string{vendorsim.ClientCredentialsGrant}, Period: time.Minute,
		})
		expiresIn := func() string {
			header := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
			status, answer := call(t, sim, http.MethodPost, vendorsim.OAuthTokenURL, header, "grant_type=client_credentials&client_id=c&client_secret=s")
			assert.Equal(t, http.StatusOK, status, answer)
			return answer
		}
		assert.Contains(t, expiresIn(), `"expires_in":60`)
		time.Sleep(10500 * time.Millisecond)
		assert.Contains(t, expiresIn(), `"expires_in":49`)
		time.Sleep(48500 * time.Millisecond)
		assert.Contains(t, expiresIn(), `"expires_in":61`, "a caller that rounds down comes a second early")
	})
}
