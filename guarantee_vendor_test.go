package tokenbroker_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee4AGoodTokenIsServedToItsLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 10, 0)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(0, 50, 0)
		// A keepalive or an operator has met with a vendor who is throttling.
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle("596"))})
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"keepalive_interval": 60, "verify": false})
		require.Equal(t, http.StatusOK, status)
		e.sim.Behave(vendorsim.Conduct{})
		e.creds("prod")
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle("120"))})
		until(0, 58, 0)
		require.NoError(t, e.tick()) // throttled until the last seconds of the hour
		until(0, 59, 52)
		assert.NotEmpty(t, e.creds("prod").Warnings)
	})
}

func TestGuarantee4TokensThatCannotBeLeasedAreNotAskedForAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{KeyPairLifetime: time.Second})
		fields := keyPair()
		fields["verify"] = false // which would refuse it
		e.write("config/kensho/prod", fields)
		for range 50 {
			status, _ := e.refused("creds/prod")
			assert.Equal(t, http.StatusBadGateway, status)
		}
		assert.LessOrEqual(t, e.exchanges(), 2, "for the first read")
		assert.Equal(t, "failed", e.read("status/prod").Data["state"])
	})
}

func TestGuarantee4AVendorsBadDayCostsNothingWhileTheTokenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		token := e.creds("prod").Data["access_token"]
		e.sim.Behave(down())
		until(0, 46, 0)
		for time.Until(time.Date(2000, 1, 1, 0, 59, 55, 0, time.UTC)) > 0 {
			resp := e.creds("prod")
			require.Equal(t, token, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "503 Service Unavailable: down")
			assert.Contains(t, resp.Warnings[0], "next attempt at")
			require.Equal(t, "degraded", e.read("status/prod").Data["state"])
			time.Sleep(10 * time.Second)
		}
		until(1, 0, 1)
		status, message := e.refused("creds/prod")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "next attempt at 2000-01-01T01:")
		assert.Equal(t, "failed", e.read("status/prod").Data["state"])

		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		assert.Empty(t, e.creds("prod").Warnings)
		data := e.read("status/prod").Data
		assert.Equal(t, "ok", data["state"])
		assert.Equal(t, 0, data["consecutive_failures"])
		assert.Contains(t, data["last_error"], "503", "the last error stays to be read")
		assert.NotContains(t, data, "next_attempt_time")
	})
}

func TestGuarantee4AttemptsBackOffWhoeverAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		var attempts []time.Time
		e.sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			attempts = append(attempts, time.Now())
			return vendorsim.Answer(500, "")
		}})
		for range 5000 {
			e.refused("creds/prod")
			time.Sleep(500 * time.Millisecond)
		}
		require.Greater(t, len(attempts), 12)
		want := time.Second
		for i := 1; i < len(attempts); i++ {
			gap := attempts[i].Sub(attempts[i-1])
			assert.GreaterOrEqual(t, gap, want*8/10, "attempt %d", i)
			assert.LessOrEqual(t, gap, want*12/10+500*time.Millisecond, "attempt %d", i)
			want = min(2*want, 5*time.Minute)
		}
	})
}

func TestGuarantee4RetryAfterIsObeyedUpToAnHour(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"90":                            90 * time.Second,
		"86400":                         time.Hour,
		"Sat, 01 Jan 2000 00:20:00 GMT": 10 * time.Minute,
		"Sat, 01 Jan 2000 00:00:00 GMT": time.Second, // past: as if there were none
		"soon":                          time.Second,
		"":                              time.Second,
	} {
		t.Run(header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
				until(0, 10, 0)
				e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle(header))})
				e.refused("creds/prod")
				e.sim.Behave(vendorsim.Conduct{})
				time.Sleep(want * 79 / 100)
				if want > time.Second {
					time.Sleep(want * 20 / 100)
				}
				e.refused("creds/prod")
				assert.Equal(t, 1, e.exchanges())
				time.Sleep(want * 42 / 100)
				e.creds("prod")
			})
		})
	}
}

func TestGuarantee4AReaderWaitsAShortTimeForASlowVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		token := e.creds("prod").Data["access_token"]
		until(0, 50, 0)
		e.sim.Behave(vendorsim.Conduct{Latency: 8 * time.Second})
		for i, longest := range []time.Duration{2 * time.Second, 0, 0} {
			asked := time.Now()
			resp := e.creds("prod")
			assert.Equal(t, token, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "has not answered yet")
			assert.LessOrEqual(t, time.Since(asked), longest, "reader %d", i)
		}
		time.Sleep(7 * time.Second)
		assert.NotEqual(t, token, e.creds("prod").Data["access_token"], "the answer came all the same")
		assert.Equal(t, 2, e.exchanges())
	})
}

func TestGuarantee5ARejectedCredentialIsTriedEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.sim.RevokeCredential(refreshToken)
		until(1, 0, 5)
		before := e.exchanges()
		for range 3600 {
			status, message := e.refused("creds/prod")
			require.Equal(t, http.StatusBadRequest, status)
			require.Contains(t, message, "write a new one to config/kensho/prod")
			time.Sleep(time.Second)
		}
		assert.Equal(t, before+12, e.exchanges(), "in an hour")
	})
}

func TestGuarantee5AWriteOrARefreshClearsARejection(t *testing.T) {
	for name, mend := range map[string]func(*engine){
		"write": func(e *engine) {
			e.sim.AddRefreshToken("link-streaming", "a-new-one")
			e.write("config/kensho/prod", map[string]any{"refresh_token": "a-new-one"})
		},
		"refresh": func(e *engine) {
			e.sim.AddRefreshToken("link-streaming", refreshToken)
			e.write("refresh/prod", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				e.sim.RevokeCredential(refreshToken)
				until(1, 0, 5)
				e.refused("creds/prod")
				mend(e)
				e.creds("prod")
				assert.Equal(t, "ok", e.read("status/prod").Data["state"])
			})
		})
	}
}

func TestGuarantee5AReaderDuringARefreshGetsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		e.sim.RevokeCredential(clientID)
		until(1, 0, 5)
		e.refused("creds/prod") // and for five minutes
		e.sim.AddClient(clientID, &privateKey().PublicKey, "")
		e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var operator sync.WaitGroup
		operator.Go(func() { e.write("refresh/prod", nil) })
		time.Sleep(time.Second)
		e.creds("prod")
		operator.Wait()
		assert.Equal(t, 3, e.exchanges())
	})
}
