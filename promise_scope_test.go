package tokenbroker_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

const (
	linkScope = "kensho:app:link"
	nerdScope = "kensho:app:nerd"
)

// newNarrowedEngine has a key pair with two scopes, and a role for each.
func newNarrowedEngine(t *testing.T) *engine {
	t.Helper()
	e := newEngine(t)
	data := keyPair()
	data["scope"] = linkScope + "," + nerdScope
	e.write("config/kensho/prod", data)
	e.write("roles/link", map[string]any{"config": "prod", "scope": linkScope})
	e.write("roles/nerd", map[string]any{"config": "prod", "scope": nerdScope})
	return e
}

// asked are the scopes that Kensho was asked for, call by call.
func (e *engine) asked() []string {
	e.t.Helper()
	var scopes []string
	for _, call := range e.sim.Calls() {
		form, err := url.ParseQuery(call.Body)
		require.NoError(e.t, err)
		scopes = append(scopes, form.Get("scope"))
	}
	return scopes
}

// refuseScope has Kensho refuse a scope, as RFC 6749 §5.2 has it.
func refuseScope(scope string) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if form, err := url.ParseQuery(string(body)); err == nil && form.Get("scope") == scope {
			return vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_scope"}`)
		}
		return nil
	}}
}

func TestPromise2RolesOfOneScopeShareAToken(t *testing.T) {
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

func TestPromise5AScopeThatTheVendorRejectsIsNotHeldAgainstTheCredential(t *testing.T) {
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
		until(0, 50, 0)
		e.creds("prod")
		status := e.read("status/prod").Data
		assert.Equal(t, "degraded", status["state"])
		assert.Contains(t, status["scopes"].(map[string]any)[nerdScope].(map[string]any)["last_error"], "invalid_scope")

		e.sim.Behave(vendorsim.Conduct{})
		e.creds("nerd")
		status = e.read("status/prod").Data
		assert.Equal(t, "ok", status["state"])
		assert.Equal(t, map[string]any{"expire_time": "2000-01-01T01:50:00Z"}, status["scopes"].(map[string]any)[nerdScope])
	})
}

func TestPromise5ACredentialThatTheVendorRejectsIsNotBlamedOnARolesScope(t *testing.T) {
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

func TestPromise4AVendorThatIsDownIsDownForAllScopes(t *testing.T) {
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

func TestPromise8ARefreshForgetsTheTokensOfAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		leaked := e.creds("nerd").Data["access_token"]
		e.write("refresh/prod", nil)
		assert.NotEqual(t, leaked, e.creds("nerd").Data["access_token"])
		leaked = e.creds("nerd").Data["access_token"]
		e.write("config/kensho/prod", map[string]any{"request_timeout": 20})
		assert.NotEqual(t, leaked, e.creds("nerd").Data["access_token"], "and so does a write")
	})
}

func TestPromise11AScopeInUseIsRenewedAndOneThatIsNotIsLeftToDie(t *testing.T) {
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

func TestPromise2ScopesOfOneCredentialAreExchangedOneAfterTheOther(t *testing.T) {
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
		stored, err := e.storage.Get(t.Context(), "state/search")
		require.NoError(t, err)
		assert.NotContains(t, string(stored.Value), `"event":`)
		e.creds("web")
	})
}
