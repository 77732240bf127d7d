package guarantees_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee2RolesWithTheSameScopeShareAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Write("roles/also-nerd", map[string]any{"config": "prod", "scope": engine.NerdScope})
		e.Write("roles/both", map[string]any{"config": "prod", "scope": engine.NerdScope + "," + engine.LinkScope})
		whole := e.Creds("prod").Data["access_token"]
		nerd := e.Creds("nerd").Data
		assert.Equal(t, []string{engine.NerdScope}, nerd["scope"])
		assert.NotEqual(t, whole, nerd["access_token"])
		assert.Equal(t, nerd["access_token"], e.Creds("also-nerd").Data["access_token"])
		assert.Equal(t, whole, e.Creds("both").Data["access_token"], "the role has the credential's whole scope, in another order")
		assert.NotEqual(t, nerd["access_token"], e.Creds("link").Data["access_token"])
		assert.Equal(t, []string{engine.LinkScope + " " + engine.NerdScope, engine.NerdScope, engine.LinkScope}, e.RequestedScopes())

		e.Restart()
		assert.Equal(t, nerd["access_token"], e.Creds("nerd").Data["access_token"], "guarantee 10")
		assert.Equal(t, 3, e.Exchanges())
	})
}

func TestEachScopeOfAnAPIKeyHasItsOwnRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("roles/web", map[string]any{"config": "search", "scope": "event"})
		create := func(scope string) string { return `POST {"scope":["` + scope + `"],"accessExpiry":3600000}` }
		calls := func() []string {
			var all []string
			for _, call := range e.Sim.Calls() {
				all = append(all, strings.TrimSpace(call.Method+" "+call.Body))
			}
			return all
		}
		whole, event := create(`discover","event`), create("event")
		e.Creds("web")
		assert.Equal(t, []string{whole, event}, calls())
		engine.Until(0, 50, 0)
		first := e.Creds("web").Data["access_token"]
		e.Creds("search")
		assert.Equal(t, []string{whole, event, "PUT", "PUT"}, calls())
		pairs := e.Sim.Calls()
		assert.NotEqual(t, pairs[2].Header.Get("Refresh-Token"), pairs[3].Header.Get("Refresh-Token"))

		e.Restart()
		engine.Until(1, 40, 0)
		assert.NotEqual(t, first, e.Creds("web").Data["access_token"])
		assert.Equal(t, pairs[2].Header.Get("Refresh-Token"), e.Sim.Calls()[4].Header.Get("Refresh-Token"), "a restart keeps the refresh token of the scope")
	})
}

// Given a refresh token that an operator wrote, a role's narrower scope still needs an
// exchange with the API key.
func TestRoleScopeIsExchangedWithTheAPIKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddPair("of-any-scope", 24*time.Hour, 7*24*time.Hour)
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "refresh_token": "of-any-scope", "scope": "discover,event"})
		e.Write("roles/web", map[string]any{"config": "search", "scope": "event"})
		require.Equal(t, http.MethodPut, e.Sim.Calls()[0].Method)
		e.Creds("web")
		assert.Equal(t, http.MethodPost, e.Sim.Calls()[1].Method)
		assert.JSONEq(t, `{"scope": ["event"]}`, e.Sim.Calls()[1].Body)
	})
}

func TestGuarantee5RejectedScopeDoesNotRejectTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Sim.Behave(engine.RefuseScope(engine.NerdScope))
		for range 20 {
			status, message := e.Refused("creds/nerd")
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, `the vendor rejected the scope "kensho:app:nerd", or the credential: kensho.okta.com: 400 Bad Request: invalid_scope`)
			assert.Contains(t, message, "config/kensho/prod")
			assert.Empty(t, e.Creds("link").Warnings)
			time.Sleep(time.Second)
		}
		assert.Len(t, e.RequestedScopes(), 3, "each scope was asked for once")
		status := e.Read("status/prod").Data
		assert.Equal(t, "failed", status["state"], "the role's readers get nothing")
		assert.Contains(t, status["last_error"], "invalid_scope")
		assert.Equal(t, "2000-01-01T00:05:00Z", status["next_attempt_time"])
		assert.Contains(t, status["scopes"].(map[string]any)[engine.NerdScope].(map[string]any)["last_error"], "invalid_scope")

		e.Restart()
		e.Refused("creds/nerd")
		assert.Len(t, e.RequestedScopes(), 3, "a restart keeps the rejection")
		engine.Until(0, 5, 30)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Creds("nerd")
		status = e.Read("status/prod").Data
		assert.Equal(t, "ok", status["state"])
		assert.Equal(t, map[string]any{"expire_time": "2000-01-01T01:05:30Z"}, status["scopes"].(map[string]any)[engine.NerdScope])
	})
}

func TestGuarantee5RejectedScopeIsForgottenWhenUnused(t *testing.T) {
	for name, change := range map[string]func(*engine.Engine){
		"its role is corrected": func(e *engine.Engine) { e.Write("roles/nerd", map[string]any{"scope": engine.LinkScope}) },
		"its role is deleted": func(e *engine.Engine) {
			_, status, message := e.Request(logical.DeleteOperation, "roles/nerd", nil)
			require.Equal(e.T, http.StatusOK, status, message)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewNarrowed(t)
				e.Sim.Behave(engine.RefuseScope(engine.NerdScope))
				for range 2 {
					e.Refused("creds/nerd")
				}
				require.Equal(t, "failed", e.Read("status/prod").Data["state"])
				change(e)
				calls := e.Exchanges()
				e.Pass(30 * time.Minute)
				assert.LessOrEqual(t, e.Exchanges(), calls+1, "one attempt for the second reader")
				status := e.Read("status/prod").Data
				assert.Equal(t, "ok", status["state"])
				assert.NotContains(t, status, "scopes")
				e.Creds("link")
			})
		})
	}
}

func TestGuarantee5RejectedCredentialIsTriedEveryFiveMinutesForAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		for range 2 {
			e.Creds("link")
			e.Creds("nerd")
		}
		e.Sim.RevokeCredential(engine.ClientID)
		engine.Until(1, 0, 5)
		calls := e.Exchanges()
		for range 60 {
			e.Pass(time.Minute)
			for _, name := range []string{"link", "nerd"} {
				_, message := e.Refused("creds/" + name)
				assert.Contains(t, message, "the vendor rejected the credential: kensho.okta.com: 401 Unauthorized: invalid_client; write a new one to config/kensho/prod")
			}
		}
		assert.InDelta(t, 12, e.Exchanges()-calls, 1)
		status := e.Read("status/prod").Data
		assert.Equal(t, "failed", status["state"])
		assert.Contains(t, status["last_error"], "invalid_client")
		assert.Contains(t, status, "next_attempt_time")
	})
}

// Given a vendor that reports a scope that it does not grant as a bad credential, the other
// scopes' tokens are still renewed.
func TestGuarantee5ScopeRejectedAsACredentialBlocksNoOtherScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Creds("link")
		e.Sim.Behave(engine.RefuseScopeBy(engine.NerdScope, vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`)))
		for range 5 * 60 {
			e.Pass(time.Minute)
			e.Refused("creds/nerd")
			e.Creds("link")
		}
	})
}

func TestGuarantee5RejectedCredentialScopeDoesNotBlockRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Creds("link")
		e.Sim.Behave(engine.RefuseScope(engine.LinkScope + " " + engine.NerdScope))
		engine.Until(1, 5, 0)
		calls := e.Exchanges()
		for range 3 * 60 {
			e.Pass(time.Minute)
			e.Refused("creds/prod")
			e.Creds("link")
			require.Equal(t, "failed", e.Read("status/prod").Data["state"])
			require.Contains(t, e.Read("status/prod").Data["last_error"], "invalid_scope")
		}
		assert.LessOrEqual(t, e.Exchanges()-calls, 3*12+6, "one attempt every five minutes, and one renewal for each of the role's tokens")
	})
}

func TestGuarantee5RejectedCredentialIsNotReportedAsARejectedScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Sim.RevokeCredential(engine.ClientID)
		_, status, _ := e.Request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(t, http.StatusBadRequest, status)
		calls := e.Exchanges()
		status, message := e.Refused("creds/nerd")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor rejected the credential: kensho.okta.com: 401")
		assert.Equal(t, calls, e.Exchanges())
	})
}

func TestGuarantee4OutageBacksOffForAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Creds("link")
		e.Sim.Behave(engine.Down())
		status, _ := e.Refused("creds/nerd")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		calls := e.Exchanges()
		status, _ = e.Refused("creds/nerd")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Empty(t, e.Creds("link").Warnings, "a token before its renewal window is not renewed")
		assert.Equal(t, calls, e.Exchanges(), "the engine does not call the vendor while backing off")
	})
}

func TestGuarantee8RefreshWithDropDropsTheTokensOfAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		leaked := e.Creds("nerd").Data["access_token"]
		e.Write("refresh/prod", nil)
		assert.NotEqual(t, leaked, e.Creds("nerd").Data["access_token"])
		leaked = e.Creds("nerd").Data["access_token"]
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		assert.NotEqual(t, leaked, e.Creds("nerd").Data["access_token"], "a write drops it too")
	})
}

func TestGuarantee11OnlyScopesInUseAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		for range 2 { // a name that is read only once is not renewed
			e.Creds("nerd")
			e.Creds("link")
		}
		e.Pass(50 * time.Minute)
		assert.Equal(t, []string{engine.LinkScope + " " + engine.NerdScope, engine.NerdScope, engine.LinkScope}, e.RequestedScopes()[:3])
		assert.ElementsMatch(t, []string{engine.NerdScope, engine.LinkScope}, e.RequestedScopes()[3:], "the credential's own token has no reader")
		e.Creds("nerd")
		e.Pass(time.Hour)
		assert.Equal(t, []string{engine.NerdScope}, e.RequestedScopes()[5:])
		assert.Equal(t, 6, e.Exchanges(), "the unread scope is not renewed again")
	})
}

func TestGuarantee11SweepMakesNoUnneededExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		storage := e.BreakStorage()
		engine.Until(1, 10, 0)
		for range 2 {
			e.Creds("link")
		}
		engine.Until(2, 5, 0)
		storage.Refuse.Store(true)
		e.Creds("link")
		storage.Refuse.Store(false)
		calls := e.Exchanges()
		e.Pass(10 * time.Minute)
		assert.Equal(t, calls, e.Exchanges(), "the unstored token is stored, and the credential's own token has no reader")
	})
}

func TestGuarantee11CredentialWithManyScopesTakesOneSlotOfASweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		scopes := make([]string, 20)
		for i := range scopes {
			scopes[i] = fmt.Sprintf("kensho:app:%d", i)
		}
		data := engine.KeyPairFields()
		data["scope"] = strings.Join(scopes, ",")
		e.Write("config/kensho/prod", data)
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "access_expiry": "1h"})
		for i, scope := range scopes {
			e.Write(fmt.Sprintf("roles/r%d", i), map[string]any{"config": "prod", "scope": scope})
			for range 2 {
				e.Creds(fmt.Sprintf("r%d", i))
			}
		}
		for range 2 {
			e.Creds("search")
		}
		e.Sim.Behave(vendorsim.Conduct{Latency: 9 * time.Second})
		engine.Until(0, 46, 0)
		require.NoError(t, e.Tick())
		puts := 0
		for _, call := range e.Sim.Calls() {
			if call.Method == http.MethodPut {
				puts++
			}
		}
		assert.Equal(t, 1, puts)
	})
}

func TestGuarantee2ScopesOfOneCredentialAreExchangedOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		done := make(chan struct{})
		for _, name := range []string{"nerd", "link", "nerd", "link", "prod"} {
			go func() {
				e.Creds(name)
				done <- struct{}{}
			}()
		}
		for range 5 {
			<-done
		}
		assert.Equal(t, 3, e.Exchanges())
		assert.Equal(t, 1, e.Sim.MostInFlight())
	})
}

func TestStateOfAnUnusedScopeIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("config/sitecore/search", map[string]any{"refresh_expiry": "2h"})
		e.Write("roles/web", map[string]any{"config": "search", "scope": "event"})
		e.Creds("web")
		for hour := range 5 {
			engine.Until(hour+1, 0, 0)
			e.Creds("search")
		}
		stored, err := e.Storage.List(t.Context(), "state/search/")
		require.NoError(t, err)
		assert.ElementsMatch(t, []string{"grant", "own"}, stored)
		e.Creds("web")
	})
}
