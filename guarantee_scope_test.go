package tokenbroker_test

import (
	"fmt"
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

func TestGuarantee2RolesOfOneScopeShareAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.write("roles/also-nerd", map[string]any{"config": "prod", "scope": nerdScope})
		e.write("roles/both", map[string]any{"config": "prod", "scope": nerdScope + "," + linkScope})
		whole := e.creds("prod").Data["access_token"]
		nerd := e.creds("nerd").Data
		assert.Equal(t, []string{nerdScope}, nerd["scope"])
		assert.NotEqual(t, whole, nerd["access_token"])
		assert.Equal(t, nerd["access_token"], e.creds("also-nerd").Data["access_token"])
		assert.Equal(t, whole, e.creds("both").Data["access_token"], "all of the credential's scope, in any order")
		assert.NotEqual(t, nerd["access_token"], e.creds("link").Data["access_token"])
		assert.Equal(t, []string{linkScope + " " + nerdScope, nerdScope, linkScope}, e.asked())

		e.restart()
		assert.Equal(t, nerd["access_token"], e.creds("nerd").Data["access_token"], "promise 10")
		assert.Equal(t, 3, e.exchanges())
	})
}

func TestEachScopeOfAnAPIKeyHasItsOwnRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSearchEngine(t)
		e.write("roles/web", map[string]any{"config": "search", "scope": "event"})
		mint := func(scope string) string { return `POST {"scope":["` + scope + `"],"accessExpiry":3600000}` }
		calls := func() []string {
			var all []string
			for _, call := range e.sim.Calls() {
				all = append(all, strings.TrimSpace(call.Method+" "+call.Body))
			}
			return all
		}
		whole, event := mint(`discover","event`), mint("event")
		e.creds("web")
		assert.Equal(t, []string{whole, event}, calls())
		until(0, 50, 0)
		first := e.creds("web").Data["access_token"]
		e.creds("search")
		assert.Equal(t, []string{whole, event, "PUT", "PUT"}, calls())
		pairs := e.sim.Calls()
		assert.NotEqual(t, pairs[2].Header.Get("Refresh-Token"), pairs[3].Header.Get("Refresh-Token"))

		e.restart()
		until(1, 40, 0)
		assert.NotEqual(t, first, e.creds("web").Data["access_token"])
		assert.Equal(t, pairs[2].Header.Get("Refresh-Token"), e.sim.Calls()[4].Header.Get("Refresh-Token"), "after a restart too")
	})
}

func TestARolesScopeIsMintedThoughThereIsARefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddPair("of-any-scope", 24*time.Hour, 7*24*time.Hour)
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "refresh_token": "of-any-scope", "scope": "discover,event"})
		e.write("roles/web", map[string]any{"config": "search", "scope": "event"})
		require.Equal(t, http.MethodPut, e.sim.Calls()[0].Method)
		e.creds("web")
		assert.Equal(t, http.MethodPost, e.sim.Calls()[1].Method)
		assert.JSONEq(t, `{"scope": ["event"]}`, e.sim.Calls()[1].Body)
	})
}

func TestGuarantee5AScopeThatTheVendorRejectsIsNotHeldAgainstTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.sim.Behave(refuseScope(nerdScope))
		for range 20 {
			status, message := e.refused("creds/nerd")
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, `the vendor rejected the scope "kensho:app:nerd", or the credential: kensho.okta.com: 400 Bad Request: invalid_scope`)
			assert.Contains(t, message, "config/kensho/prod")
			assert.Empty(t, e.creds("link").Warnings)
			time.Sleep(time.Second)
		}
		assert.Len(t, e.asked(), 3, "each scope was asked for once")
		status := e.read("status/prod").Data
		assert.Equal(t, "failed", status["state"], "the role's readers get nothing")
		assert.Contains(t, status["last_error"], "invalid_scope")
		assert.Equal(t, "2000-01-01T00:05:00Z", status["next_attempt_time"])
		assert.Contains(t, status["scopes"].(map[string]any)[nerdScope].(map[string]any)["last_error"], "invalid_scope")

		e.restart()
		e.refused("creds/nerd")
		assert.Len(t, e.asked(), 3, "which a restart does not forget")
		until(0, 5, 30)
		e.sim.Behave(vendorsim.Conduct{})
		e.creds("nerd")
		status = e.read("status/prod").Data
		assert.Equal(t, "ok", status["state"])
		assert.Equal(t, map[string]any{"expire_time": "2000-01-01T01:05:30Z"}, status["scopes"].(map[string]any)[nerdScope])
	})
}

func TestGuarantee5ARejectedScopeIsForgottenWhenNobodyAsksForIt(t *testing.T) {
	for name, change := range map[string]func(*engine){
		"its role is mended": func(e *engine) { e.write("roles/nerd", map[string]any{"scope": linkScope}) },
		"its role is deleted": func(e *engine) {
			_, status, message := e.request(logical.DeleteOperation, "roles/nerd", nil)
			require.Equal(e.t, http.StatusOK, status, message)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newNarrowedEngine(t)
				e.sim.Behave(refuseScope(nerdScope))
				for range 2 {
					e.refused("creds/nerd")
				}
				require.Equal(t, "failed", e.read("status/prod").Data["state"])
				change(e)
				calls := e.exchanges()
				e.pass(30 * time.Minute)
				assert.LessOrEqual(t, e.exchanges(), calls+1, "for the second reader, who was not told by the vendor himself")
				status := e.read("status/prod").Data
				assert.Equal(t, "ok", status["state"])
				assert.NotContains(t, status, "scopes")
				e.creds("link")
			})
		})
	}
}

func TestGuarantee5ACredentialThatTheVendorRejectsIsTriedEveryFiveMinutesForAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		for range 2 {
			e.creds("link")
			e.creds("nerd")
		}
		e.sim.RevokeCredential(clientID)
		until(1, 0, 5)
		calls := e.exchanges()
		for range 60 {
			e.pass(time.Minute)
			for _, name := range []string{"link", "nerd"} {
				_, message := e.refused("creds/" + name)
				assert.Contains(t, message, "the vendor rejected the credential: kensho.okta.com: 401 Unauthorized: invalid_client; write a new one to config/kensho/prod")
			}
		}
		assert.InDelta(t, 12, e.exchanges()-calls, 1)
		status := e.read("status/prod").Data
		assert.Equal(t, "failed", status["state"])
		assert.Contains(t, status["last_error"], "invalid_client")
		assert.Contains(t, status, "next_attempt_time")
	})
}

// For a vendor who knows no better word for a scope that it does not grant.
func TestGuarantee5AScopeThatTheVendorTakesForABadCredentialLeavesTheOthersAChance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.creds("link")
		e.sim.Behave(refuseScopeBy(nerdScope, vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`)))
		for range 5 * 60 {
			e.pass(time.Minute)
			e.refused("creds/nerd")
			e.creds("link")
		}
	})
}

func TestGuarantee5TheCredentialsOwnScopeIsNotHeldAgainstRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.creds("link")
		e.sim.Behave(refuseScope(linkScope + " " + nerdScope))
		until(1, 5, 0)
		calls := e.exchanges()
		for range 3 * 60 {
			e.pass(time.Minute)
			e.refused("creds/prod")
			e.creds("link")
			require.Equal(t, "failed", e.read("status/prod").Data["state"])
			require.Contains(t, e.read("status/prod").Data["last_error"], "invalid_scope")
		}
		assert.LessOrEqual(t, e.exchanges()-calls, 3*12+6, "each five minutes, and one for each of the role's tokens")
	})
}

func TestGuarantee5ACredentialThatTheVendorRejectsIsNotBlamedOnARolesScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.sim.RevokeCredential(clientID)
		_, status, _ := e.request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(t, http.StatusBadRequest, status)
		calls := e.exchanges()
		status, message := e.refused("creds/nerd")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor rejected the credential: kensho.okta.com: 401")
		assert.Equal(t, calls, e.exchanges())
	})
}

func TestGuarantee4AVendorThatIsDownIsDownForAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.creds("link")
		e.sim.Behave(down())
		status, _ := e.refused("creds/nerd")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		calls := e.exchanges()
		status, _ = e.refused("creds/nerd")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Empty(t, e.creds("link").Warnings, "a token that is not due wants no fresher one")
		assert.Equal(t, calls, e.exchanges(), "while backing off the vendor is not called, whoever asks")
	})
}

func TestGuarantee8ARefreshForgetsTheTokensOfAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		leaked := e.creds("nerd").Data["access_token"]
		e.write("refresh/prod", nil)
		assert.NotEqual(t, leaked, e.creds("nerd").Data["access_token"])
		leaked = e.creds("nerd").Data["access_token"]
		e.write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		assert.NotEqual(t, leaked, e.creds("nerd").Data["access_token"], "and so does a write")
	})
}

func TestGuarantee11AScopeInUseIsRenewedAndOneThatIsNotIsLeftToDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		for range 2 { // whoever reads but once is not waited for
			e.creds("nerd")
			e.creds("link")
		}
		e.pass(50 * time.Minute)
		assert.Equal(t, []string{linkScope + " " + nerdScope, nerdScope, linkScope}, e.asked()[:3])
		assert.ElementsMatch(t, []string{nerdScope, linkScope}, e.asked()[3:], "nobody has read the credential's own")
		e.creds("nerd")
		e.pass(time.Hour)
		assert.Equal(t, []string{nerdScope}, e.asked()[5:])
		assert.Equal(t, 6, e.exchanges(), "and its own reader has not come back")
	})
}

func TestGuarantee11ASweepExchangesNothingThatNobodyWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		storage := e.moody()
		until(1, 10, 0)
		for range 2 {
			e.creds("link")
		}
		until(2, 5, 0)
		storage.refuse.Store(true)
		e.creds("link")
		storage.refuse.Store(false)
		calls := e.exchanges()
		e.pass(10 * time.Minute)
		assert.Equal(t, calls, e.exchanges(), "what could not be stored is stored, and the credential's own token has no reader")
	})
}

func TestGuarantee11ACredentialOfManyScopesTakesOneSlotOfASweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		scopes := make([]string, 20)
		for i := range scopes {
			scopes[i] = fmt.Sprintf("kensho:app:%d", i)
		}
		data := keyPair()
		data["scope"] = strings.Join(scopes, ",")
		e.write("config/kensho/prod", data)
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "access_expiry": "1h"})
		for i, scope := range scopes {
			e.write(fmt.Sprintf("roles/r%d", i), map[string]any{"config": "prod", "scope": scope})
			for range 2 {
				e.creds(fmt.Sprintf("r%d", i))
			}
		}
		for range 2 {
			e.creds("search")
		}
		e.sim.Behave(vendorsim.Conduct{Latency: 9 * time.Second})
		until(0, 46, 0)
		require.NoError(t, e.tick())
		puts := 0
		for _, call := range e.sim.Calls() {
			if call.Method == http.MethodPut {
				puts++
			}
		}
		assert.Equal(t, 1, puts)
	})
}

func TestGuarantee2ScopesOfOneCredentialAreExchangedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.sim.Behave(vendorsim.Conduct{Latency: time.Second})
		done := make(chan struct{})
		for _, name := range []string{"nerd", "link", "nerd", "link", "prod"} {
			go func() {
				e.creds(name)
				done <- struct{}{}
			}()
		}
		for range 5 {
			<-done
		}
		assert.Equal(t, 3, e.exchanges())
		assert.Equal(t, 1, e.sim.MostInFlight())
	})
}

func TestWhatIsLeftOfAScopeThatNobodyAsksForGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSearchEngine(t)
		e.write("config/sitecore/search", map[string]any{"refresh_expiry": "2h"})
		e.write("roles/web", map[string]any{"config": "search", "scope": "event"})
		e.creds("web")
		for hour := range 5 {
			until(hour+1, 0, 0)
			e.creds("search")
		}
		stored, err := e.storage.List(t.Context(), "state/search/")
		require.NoError(t, err)
		assert.ElementsMatch(t, []string{"credential", "own"}, stored)
		e.creds("web")
	})
}
