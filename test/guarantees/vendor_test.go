package guarantees_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee4ValidTokenIsServedUntilItsLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(0, 50, 0)
		// As after a keepalive or a write that the vendor has throttled.
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle("596"))})
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"keepalive_interval": 60, "verify": false})
		require.Equal(t, http.StatusOK, status)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Creds("prod")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle("120"))})
		engine.Until(0, 58, 0)
		require.NoError(t, e.Tick()) // throttled until the last seconds of the hour
		engine.Until(0, 59, 52)
		assert.NotEmpty(t, e.Creds("prod").Warnings)
	})
}

func TestGuarantee4TooShortTokensAreNotRequestedRepeatedly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Lifetime: time.Second})
		fields := engine.KeyPairFields()
		fields["verify"] = false // a verification would refuse the credential
		e.Write("config/kensho/prod", fields)
		for range 50 {
			status, _ := e.Refused("creds/prod")
			assert.Equal(t, http.StatusBadGateway, status)
		}
		assert.LessOrEqual(t, e.Exchanges(), 2, "the first read makes at most two")
		assert.Equal(t, "failed", e.Read("status/prod").Data["state"])
	})
}

func TestGuarantee4OutageCostsNothingWhileTheTokenIsValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		token := e.Creds("prod").Data["access_token"]
		e.Sim.Behave(engine.Down())
		engine.Until(0, 46, 0)
		for time.Until(time.Date(2000, 1, 1, 0, 59, 55, 0, time.UTC)) > 0 {
			resp := e.Creds("prod")
			require.Equal(t, token, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "503 Service Unavailable: down")
			status := e.Read("status/prod").Data
			assert.Contains(t, resp.Warnings[0], "next attempt at "+status["next_attempt_time"].(string))
			require.Equal(t, "degraded", status["state"])
			time.Sleep(10 * time.Second)
		}
		engine.Until(1, 0, 1)
		status, message := e.Refused("creds/prod")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "next attempt at 2000-01-01T01:")
		assert.Equal(t, "failed", e.Read("status/prod").Data["state"])

		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		assert.Empty(t, e.Creds("prod").Warnings)
		data := e.Read("status/prod").Data
		assert.Equal(t, "ok", data["state"])
		assert.Equal(t, 0, data["consecutive_failures"])
		assert.Contains(t, data["last_error"], "503", "the last error stays in the status")
		assert.NotContains(t, data, "next_attempt_time")
	})
}

func TestGuarantee4AttemptsBackOffForAllReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		var attempts []time.Time
		e.Sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			attempts = append(attempts, time.Now())
			return vendorsim.Answer(500, "")
		}})
		for range 5000 {
			e.Refused("creds/prod")
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
		"Sat, 01 Jan 2000 00:00:00 GMT": time.Second, // in the past: ignored
		"soon":                          time.Second,
		"":                              time.Second,
	} {
		t.Run(header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
				engine.Until(0, 10, 0)
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle(header))})
				e.Refused("creds/prod")
				e.Sim.Behave(vendorsim.Conduct{})
				time.Sleep(want * 79 / 100)
				if want > time.Second {
					time.Sleep(want * 20 / 100)
				}
				e.Refused("creds/prod")
				assert.Equal(t, 1, e.Exchanges())
				time.Sleep(want * 42 / 100)
				e.Creds("prod")
			})
		})
	}
}

func TestGuarantee4ReaderWaitsBrieflyForASlowVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		token := e.Creds("prod").Data["access_token"]
		engine.Until(0, 50, 0)
		e.Sim.Behave(vendorsim.Conduct{Latency: 8 * time.Second})
		for i, longest := range []time.Duration{2 * time.Second, 0, 0} {
			asked := time.Now()
			resp := e.Creds("prod")
			assert.Equal(t, token, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "has not answered yet")
			assert.LessOrEqual(t, time.Since(asked), longest, "reader %d", i)
		}
		time.Sleep(7 * time.Second)
		assert.NotEqual(t, token, e.Creds("prod").Data["access_token"], "the late answer is used")
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestGuarantee5RejectedCredentialIsTriedEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Sim.RevokeCredential(engine.RefreshToken)
		engine.Until(1, 0, 5)
		before := e.Exchanges()
		for range 3600 {
			status, message := e.Refused("creds/prod")
			require.Equal(t, http.StatusBadRequest, status)
			require.Contains(t, message, "write a new one to config/kensho/prod")
			time.Sleep(time.Second)
		}
		assert.Equal(t, before+12, e.Exchanges(), "in an hour")
	})
}

func TestGuarantee5WriteOrRefreshClearsARejection(t *testing.T) {
	for name, mend := range map[string]func(*engine.Engine){
		"write": func(e *engine.Engine) {
			e.Sim.AddRefreshToken("link-streaming", "a-new-one")
			e.Write("config/kensho/prod", map[string]any{"refresh_token": "a-new-one"})
		},
		"refresh": func(e *engine.Engine) {
			e.Sim.AddRefreshToken("link-streaming", engine.RefreshToken)
			e.Write("refresh/prod", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				e.Sim.RevokeCredential(engine.RefreshToken)
				engine.Until(1, 0, 5)
				e.Refused("creds/prod")
				mend(e)
				e.Creds("prod")
				assert.Equal(t, "ok", e.Read("status/prod").Data["state"])
			})
		})
	}
}

func TestGuarantee5ReaderDuringARefreshGetsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Sim.RevokeCredential(engine.ClientID)
		engine.Until(1, 0, 5)
		e.Refused("creds/prod") // starts a pause of five minutes
		e.Sim.AddClient(engine.ClientID, &engine.PrivateKey().PublicKey, "")
		e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var operator sync.WaitGroup
		operator.Go(func() { e.Write("refresh/prod", nil) })
		time.Sleep(time.Second)
		e.Creds("prod")
		operator.Wait()
		assert.Equal(t, 3, e.Exchanges())
	})
}
