package tokenbroker_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestALeaseHoldsTheTokenAndItsMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey, "scope": "discover,event", "access_expiry": "12h"})
		resp := e.Creds("prod")
		assert.False(t, resp.Secret.Renewable)
		assert.Equal(t, 12*time.Hour-30*time.Second, resp.Secret.TTL)
		token := resp.Data["access_token"].(string)
		assert.True(t, e.Sim.Accepts(token))
		assert.Equal(t, map[string]any{
			"access_token": token,
			"http_header":  "Authorization: Bearer " + token,
			"token_type":   "Bearer",
			"expire_time":  "2000-01-01T12:00:00Z",
			"vendor":       "sitecore",
			"scope":        []string{"discover", "event"},
		}, resp.Data)
	})
}

// Expiry is the earlier of what the answer states and the token's own exp; without both, the
// vendor's rule applies. internal/broker/expiry_test.go has the whole table.
func TestGuarantee1ExpiryComesFromTheEarliestSource(t *testing.T) {
	keys := map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()}
	for name, test := range map[string]struct {
		path    string
		data    map[string]any
		conduct vendorsim.Conduct
		expires string
	}{
		"stated in seconds": {"config/kensho/prod", keys, vendorsim.Conduct{Lifetime: 30 * time.Minute}, "00:50:00"},
		// A JWT's exp and the full hour are times of the vendor's clock. A Date header has
		// a resolution of one second, so the engine assumes the earlier end of it.
		"the token's own exp":       {"config/kensho/prod", keys, vendorsim.Conduct{Lifetime: 30 * time.Minute, JWT: true, Unstated: true}, "00:49:59"},
		"stated and exp":            {"config/kensho/prod", keys, vendorsim.Conduct{Lifetime: 30 * time.Minute, JWT: true}, "00:49:59"},
		"the default of a key pair": {"config/kensho/prod", keys, vendorsim.Conduct{Unstated: true}, "01:20:00"},
		"the full hour":             {"config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken}, vendorsim.Conduct{}, "00:59:59"},
		"the full hour, as a JWT":   {"config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken}, vendorsim.Conduct{JWT: true}, "00:59:59"},
		"stated in milliseconds":    {"config/sitecore/prod", map[string]any{"api_key": engine.APIKey, "access_expiry": "2h"}, vendorsim.Conduct{}, "02:20:00"},
		"the vendor's default, ms":  {"config/sitecore/prod", map[string]any{"api_key": engine.APIKey}, vendorsim.Conduct{}, "00:20:00"},
		"the configured expiry":     {"config/sitecore/prod", map[string]any{"refresh_token": "of-a-pair", "access_expiry": "2h"}, vendorsim.Conduct{}, "02:20:00"},
		"a day by default":          {"config/sitecore/prod", map[string]any{"refresh_token": "of-a-pair"}, vendorsim.Conduct{}, "00:20:00"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				access := 24 * time.Hour
				if test.data["access_expiry"] != nil {
					access = 2 * time.Hour
				}
				e.Sim.AddPair("of-a-pair", access, 7*24*time.Hour)
				e.Sim.Behave(test.conduct)
				engine.Until(0, 20, 0)
				e.Write(test.path, test.data)
				assert.Contains(t, e.Creds("prod").Data["expire_time"], test.expires)
			})
		})
	}
}

func TestGuarantee1HoldsAtEverySecondOfATokensLifetime(t *testing.T) {
	for name, conduct := range map[string]vendorsim.Conduct{
		"clocks agree":             {},
		"vendor 5 minutes ahead":   {Skew: 5 * time.Minute},
		"vendor 90 seconds behind": {Skew: -90 * time.Second},
		"vendor a fraction ahead":  {Skew: 700 * time.Millisecond},
		"a JWT, vendor ahead":      {JWT: true, Skew: 3 * time.Minute},
		"slow vendor":              {Latency: 3 * time.Second},
		"slow vendor, skewed":      {Latency: 3 * time.Second, Skew: -2 * time.Minute},
		"no Date":                  {NoDate: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Sim.Behave(conduct)
				engine.Until(0, 40, 0)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				for time.Until(time.Date(2000, 1, 1, 2, 10, 0, 0, time.UTC)) > 0 {
					started := time.Now()
					e.Creds("prod")
					assert.LessOrEqual(t, time.Since(started), 10*time.Second+2*conduct.Latency, "a read waits at most 10 s for the hour")
					time.Sleep(730 * time.Millisecond)
				}
				assert.LessOrEqual(t, e.Exchanges(), 4, "the verification, one each hour, and at most one more at the hour")
			})
		})
	}
}

func TestGuarantee1AReadInTheLastSecondsOfTheHourWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 30, 0)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(0, 59, 45)
		assert.Positive(t, e.Creds("prod").Secret.TTL, "a token with 15 s left is served")
		engine.Until(0, 59, 53)

		resp := e.Creds("prod")
		assert.Equal(t, "2000-01-01T01:00:00Z", time.Now().UTC().Format(time.RFC3339))
		assert.Greater(t, resp.Secret.TTL, 59*time.Minute)
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestGuarantee1AFirstReadInTheLastSecondsWaitsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 59, 55)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		assert.Greater(t, e.Creds("prod").Secret.TTL, 59*time.Minute)
	})
}

func TestGuarantee1AFirstReadNearTheHourIsServedAtAnySecond(t *testing.T) {
	for _, latency := range []time.Duration{0, 200 * time.Millisecond, time.Second, 3 * time.Second} {
		for _, noDate := range []bool{false, true} {
			for before := -2 * time.Second; before <= 16*time.Second; before += 250 * time.Millisecond {
				synctest.Test(t, func(t *testing.T) {
					e := engine.New(t)
					e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
					e.Sim.Behave(vendorsim.Conduct{Latency: latency, NoDate: noDate})
					engine.Until(1, 0, 0)
					time.Sleep(time.Hour - before)
					started := time.Now()
					e.Creds("prod")
					assert.LessOrEqual(t, time.Since(started), 10*time.Second+2*latency)
				})
			}
		}
	}
}

func TestALeaseIsCappedByTheMountsMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.System.MaxLeaseTTLVal = 10 * time.Minute
		e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey})
		resp := e.Creds("prod")
		assert.Equal(t, 10*time.Minute, resp.Secret.TTL)
		assert.Empty(t, resp.Warnings)
	})
}

func TestRevokingASharedLeaseAlwaysSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		resp := e.Creds("prod")
		revoke := func() {
			_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: resp.Secret, Storage: e.Storage})
			require.NoError(t, err)
		}
		revoke()
		assert.Equal(t, resp.Data, e.Creds("prod").Data, "other readers keep the same token")
		_, status, _ := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, 200, status)
		revoke()
	})
}

func TestAnOperatorsAccessTokenIsServedUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 20, 0)
		e.Write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		engine.Until(0, 40, 0)
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		resp := e.Read("creds/prod")
		assert.Equal(t, "pasted-access-token", resp.Data["access_token"])
		assert.Equal(t, "2000-01-01T00:59:58Z", resp.Data["expire_time"], "less 2 s, as the vendor's clock is unknown")
		assert.Equal(t, 20*time.Minute-32*time.Second, resp.Secret.TTL)

		engine.Until(1, 20, 0)
		for range 2 {
			_, status, message := e.Request(logical.ReadOperation, "creds/prod", nil)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "the credential has expired: access_token expired at 2000-01-01T00:59:58Z")
			assert.Contains(t, message, "config/kensho/prod")
			// A write of another field does not make it valid again.
			_, status, _ = e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 30, "verify": false})
			require.Equal(t, 200, status)
		}
		assert.Zero(t, e.Exchanges())
	})
}

func TestSitecoreFallsBackToTheAPIKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey, "refresh_token": "refused-from-the-start", "access_expiry": "1h", "refresh_expiry": "3h"})
		methods := func() string {
			var all []string
			for _, call := range e.Sim.Calls() {
				all = append(all, call.Method)
			}
			return strings.Join(all, " ")
		}
		assert.Equal(t, "PUT POST", methods(), "the refresh token is rejected, and the API key yields a pair")
		engine.Until(1, 0, 0)
		e.Creds("prod")
		assert.Equal(t, "PUT POST PUT", methods(), "then the refresh token of the pair is used")
		engine.Until(3, 30, 0)
		e.Creds("prod")
		assert.Equal(t, "PUT POST PUT POST", methods(), "it has expired, and the rejected one is not tried again")
	})
}

func TestReadsOfOtherNamesDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})

		var slow sync.WaitGroup
		slow.Go(func() {
			_, status, _ := e.Request(logical.ReadOperation, "creds/prod", nil)
			assert.Equal(t, http.StatusServiceUnavailable, status)
		})
		time.Sleep(time.Second)
		started := time.Now()
		e.Creds("search")
		assert.Zero(t, time.Since(started))
		slow.Wait()
	})
}

func TestTheErrorForAnUnknownNameHasThePathToWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		_, status, message := e.Request(logical.ReadOperation, "creds/nobody", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, `no role or credential named "nobody" (list creds/ for the names); create one at roles/nobody or config/<vendor>/nobody`, message)
	})
}

func TestUnknownQueryParametersAreRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		for field, says := range map[string]string{
			"tll":   `unknown field "tll" (allowed: `,
			"ttl":   `unknown field "ttl"; write roles/<name> with this ttl, and read that name (allowed: `,
			"scope": "scope: neither the role nor the credential sets it, so a reader may only with a role that has scope in allowed_params",
		} {
			for _, path := range []string{"creds/prod", "token/prod"} {
				_, status, message := e.Request(logical.ReadOperation, path, map[string]any{field: "1h"})
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, says)
			}
		}
	})
}

// A role that the vendor rejects does not affect concurrent reads (guarantee 15). The race
// detector fails this test if shared state is written without its lock.
func TestGuarantee15AScopeIsRejectedWhileOthersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Creds("prod")
		e.Sim.Behave(engine.RefuseScopeBy(engine.NerdScope, vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_scope"}`)))
		for range 50 {
			var readers sync.WaitGroup
			var isRejected atomic.Bool
			for range 2 {
				readers.Go(func() {
					for !isRejected.Load() {
						_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.Storage})
						assert.NoError(t, err)
					}
				})
			}
			calls := e.Exchanges()
			_, status, _ := e.Request(logical.ReadOperation, "creds/nerd", nil)
			isRejected.Store(true)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Equal(t, calls+1, e.Exchanges())
			readers.Wait()
			time.Sleep(6 * time.Minute) // until the engine tries the scope again
			e.Creds("prod")
		}
	})
}
