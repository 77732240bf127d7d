package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// slowly is a vendor that answers in its time: within request_timeout, if that is a minute.
var slowly = vendorsim.Conduct{Latency: 50 * time.Second}

// newSlowEngine has a credential and roles of some scopes at a vendor that replaces refresh
// tokens, and that may take a minute for an answer.
func newSlowEngine(t *testing.T, scopes ...string) *engine {
	t.Helper()
	e := newEngine(t)
	client := vendorsim.OAuthClient{
		ID: clientID, Secret: clientSecret, Rotate: true, Scopes: scopes, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant},
	}
	e.sim.AddOAuthClient(client)
	e.sim.AddOAuthRefreshToken(client, refreshToken, scopes...)
	fields := secretClient(false)
	fields["scope"], fields["refresh_token"], fields["request_timeout"] = strings.Join(scopes, ","), refreshToken, 60
	e.write("config/oauth2/api", fields)
	for _, scope := range scopes {
		e.write("roles/"+scope, map[string]any{"config": "api", "scope": scope})
	}
	return e
}

// Guarantees 3 and 8: a refresh that takes too long ends between two exchanges, and says what
// it has left. It is repeated for the rest.
func TestGuarantee3ALongRefreshLosesNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scopes := []string{"a", "b", "c", "d", "e", "f"}
		e := newSlowEngine(t, scopes...)
		for _, scope := range scopes {
			e.creds(scope)
		}
		before := map[string]string{}
		for _, scope := range scopes {
			before[scope] = tokenOf(e.creds(scope))
		}
		e.sim.Behave(slowly)
		began := time.Now()
		_, status, message := e.request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, "refresh/api: the refresh was ended after 3m0s, and has not replaced the tokens of these scopes: d, e, f; refresh again", message)
		assert.Equal(t, 200*time.Second, time.Since(began), "the last call that began within three minutes ended")
		assert.Equal(t, "ok", e.read("status/api").Data["state"])

		_, status, _ = e.request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		for _, scope := range scopes {
			assert.NotEqual(t, before[scope], tokenOf(e.creds(scope)), "those of before come first")
		}
		e.assertExchangeable()
	})
}

func TestGuarantee3AReadWhoseTurnComesLateLosesNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scopes := []string{"a", "b", "c", "d", "e"}
		e := newSlowEngine(t, scopes...)
		e.sim.Behave(slowly)
		calls := e.exchanges()
		answers := make(chan int, len(scopes))
		for _, scope := range scopes {
			go func() {
				_, status, _ := e.request(logical.ReadOperation, "creds/"+scope, nil)
				answers <- status
			}()
		}
		statuses := map[int]int{}
		for range scopes {
			statuses[<-answers]++
		}
		assert.Equal(t, map[int]int{http.StatusOK: 4, http.StatusServiceUnavailable: 1}, statuses)
		assert.Equal(t, calls+4, e.exchanges(), "no exchange begins after three minutes")
		e.assertExchangeable()
	})
}

func TestGuarantee3AWriteThatWaitedForStorageLosesNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSlowEngine(t, "a")
		storage := e.moody()
		e.restart()
		e.sim.Behave(slowly)
		waits := true
		slow := func(call storageCall) mood {
			if call.op == "list" && call.key == "state/api/" && waits {
				waits = false
				return mood{wait: 150 * time.Second, done: true}
			}
			return mood{}
		}
		storage.meet.Store(&slow)
		e.write("config/oauth2/api", map[string]any{"max_ttl": "30m"})
		e.assertExchangeable()
	})
}

func TestGuarantee3AWriteThatWaitedTooLongCallsNoVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSlowEngine(t, "a")
		storage := e.moody()
		e.restart()
		e.sim.Behave(slowly)
		slow := func(call storageCall) mood {
			if call.op == "get" && call.key == "config/oauth2/api" {
				return mood{wait: 4 * time.Minute}
			}
			return mood{}
		}
		storage.meet.Store(&slow)
		calls := e.exchanges()
		_, status, message := e.request(logical.UpdateOperation, "config/oauth2/api", map[string]any{"max_ttl": "30m"})
		assert.Equal(t, http.StatusServiceUnavailable, status, message)
		assert.Equal(t, calls, e.exchanges(), "there would be no time to store what it answers")
		storage.meet.Store(nil)
		e.assertExchangeable()
	})
}

func TestADedicatedTokenThatComesLateIsLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("config/oauth2/api", map[string]any{"request_timeout": 60})
		storage := e.moody()
		e.sim.Behave(slowly)
		slow := func(call storageCall) mood {
			if call.op == "list" && call.key == "lease/api/" {
				return mood{wait: 150 * time.Second}
			}
			return mood{}
		}
		storage.meet.Store(&slow)
		assert.True(t, e.sim.Accepts(tokenOf(e.creds("mine"))))
	})
}

// Guarantee 1: the write of a dedicated token's lease may take long.
func TestGuarantee1TheLeaseOfADedicatedTokenEndsBeforeItHoweverLongItsWriteTakes(t *testing.T) {
	for wait, leased := range map[time.Duration]bool{40 * time.Second: true, 70 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			e := newOAuthEngine(t)
			e.write("config/oauth2/api", map[string]any{"max_ttl": "1m"})
			storage := e.moody()
			slow := func(call storageCall) mood {
				if call.op == "put" && strings.HasPrefix(call.key, "lease/") {
					return mood{wait: wait}
				}
				return mood{}
			}
			storage.meet.Store(&slow)
			began := time.Now()
			resp, status, message := e.request(logical.ReadOperation, "creds/mine", nil)
			if !leased {
				assert.Equal(t, http.StatusServiceUnavailable, status)
				assert.Contains(t, message, "the token has died while it was being stored")
				assert.Len(t, e.sim.Revoked(), 1)
				return
			}
			require.Equal(t, http.StatusOK, status, message)
			assert.Less(t, time.Since(began)+resp.Secret.TTL, time.Minute)
		})
	}
}

// Guarantee 4: a reader of a valid token waits 2 seconds for what holds the credential, from its
// beginning, and those who come later do not wait.
func TestGuarantee4ReadersOfAValidTokenDoNotWaitForOthersExchanges(t *testing.T) {
	for name, other := range map[string]string{"a dedicated role's": "creds/mine", "another scope's": "creds/ours"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newOAuthEngine(t)
				e.write("config/oauth2/api", map[string]any{"request_timeout": 60})
				e.write("roles/ours", map[string]any{"config": "api", "scope": "write"})
				e.creds("api")
				e.sim.Behave(slowly)
				time.Sleep(50 * time.Minute) // when it is due for a fresher one
				go e.request(logical.ReadOperation, other, nil)
				synctest.Wait()
				began := time.Now()
				for range 30 {
					e.creds("api")
				}
				assert.Equal(t, 2*time.Second, time.Since(began))
				time.Sleep(3 * time.Minute)
				began = time.Now()
				assert.Greater(t, e.creds("api").Secret.TTL, 50*time.Minute, "it had its turn")
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

// Guarantee 4: reads of a dedicated role that follow one another keep no token from its renewal.
func TestGuarantee4ATokenIsRenewedThoughADedicatedRoleIsReadWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("roles/mine", map[string]any{"max_leases": 0, "max_exchanges": 1000})
		e.write("config/oauth2/api", map[string]any{"request_timeout": 60})
		old := tokenOf(e.creds("api"))
		e.sim.Behave(slowly)
		time.Sleep(45*time.Minute + time.Second)
		for range 3 {
			go func() {
				for range 10 {
					e.request(logical.ReadOperation, "creds/mine", nil)
				}
			}()
		}
		time.Sleep(5 * time.Second)
		e.pass(5 * time.Minute)
		assert.NotEqual(t, old, tokenOf(e.creds("api")))
		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(time.Hour)
	})
}
