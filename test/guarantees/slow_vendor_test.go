package guarantees_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// slowly makes the vendor take 50 seconds for an answer, within a request_timeout of a minute.
var slowly = vendorsim.Conduct{Latency: 50 * time.Second}

// newSlowEngine mounts an engine with a credential, and a role for each scope, at a vendor
// that rotates refresh tokens. The credential's request_timeout is a minute.
func newSlowEngine(t *testing.T, scopes ...string) *engine.Engine {
	t.Helper()
	e := engine.New(t)
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Rotate: true, Scopes: scopes, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant},
	}
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, scopes...)
	fields := engine.SecretClient(false)
	fields["scope"], fields["refresh_token"], fields["request_timeout"] = strings.Join(scopes, ","), engine.RefreshToken, 60
	e.Write("config/oauth2/api", fields)
	for _, scope := range scopes {
		e.Write("roles/"+scope, map[string]any{"config": "api", "scope": scope})
	}
	return e
}

// Guarantees 3 and 8: a refresh that takes too long ends between two exchanges and names the
// scopes that it has not refreshed. A second refresh continues with those.
func TestGuarantee3LongRefreshLosesNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scopes := []string{"a", "b", "c", "d", "e", "f"}
		e := newSlowEngine(t, scopes...)
		for _, scope := range scopes {
			e.Creds(scope)
		}
		before := map[string]string{}
		for _, scope := range scopes {
			before[scope] = engine.TokenOf(e.Creds(scope))
		}
		e.Sim.Behave(slowly)
		began := time.Now()
		_, status, message := e.Request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, "refresh/api: the refresh timed out after 3m0s; tokens of these scopes were not replaced: d, e, f; refresh again", message)
		assert.Equal(t, 200*time.Second, time.Since(began), "the exchange that began within three minutes is completed")
		assert.Equal(t, "ok", e.Read("status/api").Data["state"])

		_, status, _ = e.Request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		for _, scope := range scopes {
			assert.NotEqual(t, before[scope], engine.TokenOf(e.Creds(scope)), "the second refresh starts with the scopes that are left")
		}
		e.AssertExchangeable()
	})
}

// Given five readers of different scopes and a slow vendor, the last reader fails rather than
// start an exchange that it has no time to store.
func TestGuarantee3LateReadLosesNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scopes := []string{"a", "b", "c", "d", "e"}
		e := newSlowEngine(t, scopes...)
		e.Sim.Behave(slowly)
		calls := e.Exchanges()
		answers := make(chan int, len(scopes))
		for _, scope := range scopes {
			go func() {
				_, status, _ := e.Request(logical.ReadOperation, "creds/"+scope, nil)
				answers <- status
			}()
		}
		statuses := map[int]int{}
		for range scopes {
			statuses[<-answers]++
		}
		assert.Equal(t, map[int]int{http.StatusOK: 4, http.StatusServiceUnavailable: 1}, statuses)
		assert.Equal(t, calls+4, e.Exchanges(), "no exchange begins after three minutes")
		e.AssertExchangeable()
	})
}

func TestGuarantee3WriteDelayedByStorageLosesNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSlowEngine(t, "a")
		storage := e.BreakStorage()
		e.Restart()
		e.Sim.Behave(slowly)
		waits := true
		slow := func(call engine.StorageCall) engine.Fault {
			if call.Op == "list" && call.Key == "state/api/" && waits {
				waits = false
				return engine.Fault{Wait: 150 * time.Second, Done: true}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&slow)
		e.Write("config/oauth2/api", map[string]any{"max_ttl": "30m"})
		e.AssertExchangeable()
	})
}

func TestGuarantee3WriteDelayedTooLongDoesNotCallTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSlowEngine(t, "a")
		storage := e.BreakStorage()
		e.Restart()
		e.Sim.Behave(slowly)
		slow := func(call engine.StorageCall) engine.Fault {
			if call.Op == "get" && call.Key == "config/oauth2/api" {
				return engine.Fault{Wait: 4 * time.Minute}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&slow)
		calls := e.Exchanges()
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/api", map[string]any{"max_ttl": "30m"})
		assert.Equal(t, http.StatusServiceUnavailable, status, message)
		assert.Equal(t, calls, e.Exchanges(), "no time is left to store an answer")
		storage.OnCall.Store(nil)
		e.AssertExchangeable()
	})
}

func TestLateDedicatedTokenIsLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/api", map[string]any{"request_timeout": 60})
		storage := e.BreakStorage()
		e.Sim.Behave(slowly)
		slow := func(call engine.StorageCall) engine.Fault {
			if call.Op == "list" && call.Key == "lease/api/" {
				return engine.Fault{Wait: 150 * time.Second}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&slow)
		assert.True(t, e.Sim.Accepts(engine.TokenOf(e.Creds("mine"))))
	})
}

// Given a slow write of a dedicated token's lease, the lease still ends before the token, or
// the read fails and the token is revoked.
func TestGuarantee1DedicatedLeaseEndsBeforeItsTokenAfterASlowWrite(t *testing.T) {
	for wait, leased := range map[time.Duration]bool{40 * time.Second: true, 70 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewOAuth(t)
			e.Write("config/oauth2/api", map[string]any{"max_ttl": "1m"})
			storage := e.BreakStorage()
			slow := func(call engine.StorageCall) engine.Fault {
				if call.Op == "put" && strings.HasPrefix(call.Key, "lease/") {
					return engine.Fault{Wait: wait}
				}
				return engine.Fault{}
			}
			storage.OnCall.Store(&slow)
			began := time.Now()
			resp, status, message := e.Request(logical.ReadOperation, "creds/mine", nil)
			if !leased {
				assert.Equal(t, http.StatusServiceUnavailable, status)
				assert.Contains(t, message, "the token expired while it was being stored")
				assert.Len(t, e.Sim.Revoked(), 1)
				return
			}
			require.Equal(t, http.StatusOK, status, message)
			assert.Less(t, time.Since(began)+resp.Secret.TTL, time.Minute)
		})
	}
}

// A reader of a valid token waits at most 2 seconds for another exchange of the credential,
// counted from the start of that wait; later readers do not wait.
func TestGuarantee4ReadersOfAValidTokenDoNotWaitForOtherExchanges(t *testing.T) {
	for name, other := range map[string]string{"of a dedicated role": "creds/mine", "of another scope": "creds/ours"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("config/oauth2/api", map[string]any{"request_timeout": 60})
				e.Write("roles/ours", map[string]any{"config": "api", "scope": "write"})
				e.Creds("api")
				e.Sim.Behave(slowly)
				time.Sleep(50 * time.Minute) // the token is due for renewal
				go e.Request(logical.ReadOperation, other, nil)
				synctest.Wait()
				began := time.Now()
				for range 30 {
					e.Creds("api")
				}
				assert.Equal(t, 2*time.Second, time.Since(began))
				time.Sleep(3 * time.Minute)
				began = time.Now()
				assert.Greater(t, e.Creds("api").Secret.TTL, 50*time.Minute, "the token was renewed in the background")
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

// Back-to-back reads of a dedicated role do not keep the shared token from being renewed.
func TestGuarantee4TokenIsRenewedDuringConstantDedicatedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/mine", map[string]any{"max_leases": 0, "max_exchanges": 1000})
		e.Write("config/oauth2/api", map[string]any{"request_timeout": 60})
		old := engine.TokenOf(e.Creds("api"))
		e.Sim.Behave(slowly)
		time.Sleep(45*time.Minute + time.Second)
		for range 3 {
			go func() {
				for range 10 {
					e.Request(logical.ReadOperation, "creds/mine", nil)
				}
			}()
		}
		time.Sleep(5 * time.Second)
		e.Pass(5 * time.Minute)
		assert.NotEqual(t, old, engine.TokenOf(e.Creds("api")))
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(time.Hour)
	})
}
