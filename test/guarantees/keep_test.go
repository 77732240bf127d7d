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
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// refreshFailures are the ways in which a refresh fails, with the status and a part of the
// message of its answer.
var refreshFailures = map[string]struct {
	fail   func(*engine.Engine, *engine.FaultyStorage)
	status int
	says   string
}{
	"the vendor is down": {func(e *engine.Engine, _ *engine.FaultyStorage) { e.Sim.Behave(engine.Down()) }, http.StatusServiceUnavailable, "503 Service Unavailable"},
	"the vendor rejects the credential": {func(e *engine.Engine, _ *engine.FaultyStorage) {
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
	}, http.StatusBadRequest, "write a new one to config/kensho/prod"},
	"the answer is invalid": {func(e *engine.Engine, _ *engine.FaultyStorage) {
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusOK, `<html>`))})
	}, http.StatusBadGateway, "next attempt at"},
	"the new token expires at once": {func(e *engine.Engine, _ *engine.FaultyStorage) {
		e.Sim.Behave(vendorsim.Conduct{Lifetime: time.Second})
	}, http.StatusBadGateway, "too soon to lease"},
	"storage fails":                         {func(_ *engine.Engine, s *engine.FaultyStorage) { s.Refuse.Store(true); s.RefuseProbe.Store(true) }, http.StatusInternalServerError, "the disk is full"},
	"the server is killed before the write": {func(_ *engine.Engine, s *engine.FaultyStorage) { s.FailWritesAfter(0) }, http.StatusInternalServerError, "the disk is full"},
}

// Guarantee 4: a refresh that fails keeps the valid tokens, also across a restart.
func TestFaultFailedRefreshKeepsTheValidToken(t *testing.T) {
	for name, row := range refreshFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewNarrowed(t)
				storage := e.BreakStorage()
				own, narrow := engine.TokenOf(e.Creds("prod")), engine.TokenOf(e.Creds("nerd"))
				engine.Until(0, 16, 0)
				row.fail(e, storage)
				_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
				assert.Equal(t, row.status, status, message)
				assert.Contains(t, message, row.says)
				if status != http.StatusInternalServerError {
					assert.Contains(t, message, "the cached token stays in use; it expires at 2000-01-01T01:00:00Z")
				}
				served := func(when string) {
					assert.Equal(t, own, engine.TokenOf(e.Creds("prod")), when)
					assert.Equal(t, narrow, engine.TokenOf(e.Creds("nerd")), when)
				}
				served("at once")
				time.Sleep(10 * time.Minute)
				served("later")
				assert.NotEqual(t, "failed", e.Read("status/prod").Data["state"])
				e.Storage = storage.Storage
				e.Restart()
				served("after a restart")
				assert.Empty(t, e.Sim.Revoked())

				e.Sim.Behave(vendorsim.Conduct{})
				e.Write("refresh/prod", nil)
				assert.NotEqual(t, own, engine.TokenOf(e.Creds("prod")))
				assert.NotEqual(t, narrow, engine.TokenOf(e.Creds("nerd")))
				assert.Equal(t, "ok", e.Read("status/prod").Data["state"])
			})
		})
	}
	if !t.Failed() {
		tally.Record(t, tally.Row{Fault: "a refresh fails while a token is valid", Tried: len(refreshFailures), Note: "readers get the valid token, after a restart too"})
	}
}

func TestGuarantee8RefreshWithDropNeverServesAnOlderToken(t *testing.T) {
	for name, row := range refreshFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewNarrowed(t)
				storage := e.BreakStorage()
				leaked := []any{engine.TokenOf(e.Creds("prod")), engine.TokenOf(e.Creds("nerd"))}
				row.fail(e, storage)
				_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", engine.Drop)
				assert.Equal(t, row.status, status, message)
				if status != http.StatusInternalServerError {
					assert.Contains(t, message, "the cached tokens were dropped (drop=true), and reads fail until an exchange succeeds")
				}
				for range 2 {
					for _, path := range []string{"creds/prod", "creds/nerd"} {
						e.Refused(path)
					}
					if status != http.StatusInternalServerError { // a restart would restore the token, as the answer says
						e.Restart()
					}
				}
				storage.Refuse.Store(false)
				storage.RefuseProbe.Store(false)
				storage.WritesLeft.Store(nil)
				e.Sim.Behave(vendorsim.Conduct{})
				e.Write("refresh/prod", engine.Drop)
				assert.NotContains(t, leaked, engine.TokenOf(e.Creds("prod")))
				assert.NotContains(t, leaked, engine.TokenOf(e.Creds("nerd")))
			})
		})
	}
}

func TestGuarantee8RefreshReplacesTheValidTokensOfAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Creds("link")
		time.Sleep(2 * time.Hour)
		older := []string{engine.TokenOf(e.Creds("prod")), engine.TokenOf(e.Creds("nerd"))}
		calls := len(e.RequestedScopes())
		e.Write("refresh/prod", nil)
		assert.Equal(t, []string{engine.LinkScope + " " + engine.NerdScope, engine.NerdScope}, e.RequestedScopes()[calls:], "the role link has no valid token to replace")
		e.Sim.Behave(engine.Down())
		for _, name := range []string{"prod", "nerd"} {
			resp := e.Creds(name)
			assert.NotContains(t, older, engine.TokenOf(resp))
			assert.Empty(t, resp.Warnings)
		}
	})
}

func TestGuarantee4RefreshKeepsTheTokenOfARejectedScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		own, link, nerd := engine.TokenOf(e.Creds("prod")), engine.TokenOf(e.Creds("link")), engine.TokenOf(e.Creds("nerd"))
		e.Sim.Behave(engine.RefuseScope(engine.LinkScope))
		_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `the refresh of the scope "kensho:app:link" failed: kensho.okta.com: 400 Bad Request: invalid_scope; the cached token stays in use; it expires at 2000-01-01T01:00:00Z`)
		assert.NotEqual(t, own, engine.TokenOf(e.Creds("prod")))
		assert.NotEqual(t, nerd, engine.TokenOf(e.Creds("nerd")), "the other scopes' tokens are replaced")
		assert.Equal(t, link, engine.TokenOf(e.Creds("link")))
	})
}

func TestGuarantee4ReadersDoNotWaitForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		older := engine.TokenOf(e.Creds("prod"))
		for _, at := range []int{10, 50} { // before the token is due for renewal, and after
			engine.Until(0, at, 0)
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
			var operator sync.WaitGroup
			operator.Go(func() {
				_, status, _ := e.Request(logical.UpdateOperation, "refresh/prod", nil)
				assert.Equal(t, http.StatusServiceUnavailable, status)
			})
			time.Sleep(3 * time.Second)
			asked := time.Now()
			assert.Equal(t, older, engine.TokenOf(e.Creds("prod")))
			assert.Zero(t, time.Since(asked))
			operator.Wait()
		}
	})
}

func TestRefreshDoesNotWaitForTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		engine.Until(0, 50, 0)
		e.Sim.Behave(engine.Down())
		for range 5 {
			e.Pass(time.Minute)
			e.Creds("prod")
		}
		calls := e.Exchanges()
		for range 3 {
			e.Request(logical.UpdateOperation, "refresh/prod", nil)
		}
		require.Equal(t, calls+3, e.Exchanges(), "each refresh makes one exchange")
		e.Creds("prod")
		assert.Equal(t, calls+3, e.Exchanges(), "reads still back off")
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/prod", nil)
		assert.Empty(t, e.Creds("prod").Warnings)
	})
}
