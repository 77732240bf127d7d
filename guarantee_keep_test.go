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

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// refreshFailures are what can go wrong with a refresh, and the status of its answer.
var refreshFailures = map[string]struct {
	strike func(*engine, *moodyStorage)
	status int
	says   string
}{
	"the vendor is down": {func(e *engine, _ *moodyStorage) { e.sim.Behave(down()) }, http.StatusServiceUnavailable, "503 Service Unavailable"},
	"the vendor rejects the credential": {func(e *engine, _ *moodyStorage) {
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
	}, http.StatusBadRequest, "write a new one to config/kensho/prod"},
	"the answer is invalid": {func(e *engine, _ *moodyStorage) {
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusOK, `<html>`))})
	}, http.StatusBadGateway, "next attempt at"},
	"the new token expires at once": {func(e *engine, _ *moodyStorage) {
		e.sim.Behave(vendorsim.Conduct{KeyPairLifetime: time.Second})
	}, http.StatusBadGateway, "too short"},
	"storage fails":                         {func(_ *engine, s *moodyStorage) { s.refuse.Store(true); s.refuseFence.Store(true) }, http.StatusInternalServerError, "the disk is full"},
	"the server is killed before the write": {func(_ *engine, s *moodyStorage) { s.dieAfter(0) }, http.StatusInternalServerError, "the disk is full"},
}

// Guarantee 4: a refresh keeps a valid token until the next one is stored.
func TestFaultARefreshThatFailsCostsReadersNothing(t *testing.T) {
	for name, row := range refreshFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newNarrowedEngine(t)
				storage := e.moody()
				own, narrow := tokenOf(e.creds("prod")), tokenOf(e.creds("nerd"))
				until(0, 16, 0)
				row.strike(e, storage)
				_, status, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
				assert.Equal(t, row.status, status, message)
				assert.Contains(t, message, row.says)
				if status != http.StatusInternalServerError {
					assert.Contains(t, message, "the cached token stays in use; it expires at 2000-01-01T01:00:00Z")
				}
				served := func(when string) {
					assert.Equal(t, own, tokenOf(e.creds("prod")), when)
					assert.Equal(t, narrow, tokenOf(e.creds("nerd")), when)
				}
				served("at once")
				time.Sleep(10 * time.Minute)
				served("later")
				assert.NotEqual(t, "failed", e.read("status/prod").Data["state"])
				e.storage = storage.Storage
				e.restart()
				served("after a restart")
				assert.Empty(t, e.sim.Revoked())

				e.sim.Behave(vendorsim.Conduct{})
				e.write("refresh/prod", nil)
				assert.NotEqual(t, own, tokenOf(e.creds("prod")))
				assert.NotEqual(t, narrow, tokenOf(e.creds("nerd")))
				assert.Equal(t, "ok", e.read("status/prod").Data["state"])
			})
		})
	}
	if !t.Failed() {
		tally.Record(t, tally.Row{Fault: "a refresh fails while a token is valid", Tried: len(refreshFailures), Note: "readers get the valid token, after a restart too"})
	}
}

func TestGuarantee8ARefreshThatDropsServesNoOlderTokenWhateverHappens(t *testing.T) {
	for name, row := range refreshFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newNarrowedEngine(t)
				storage := e.moody()
				leaked := []any{tokenOf(e.creds("prod")), tokenOf(e.creds("nerd"))}
				row.strike(e, storage)
				_, status, message := e.request(logical.UpdateOperation, "refresh/prod", drop)
				assert.Equal(t, row.status, status, message)
				if status != http.StatusInternalServerError {
					assert.Contains(t, message, "the cached tokens were dropped, as drop=true asks, and reads fail until an exchange succeeds")
				}
				for range 2 {
					for _, path := range []string{"creds/prod", "creds/nerd"} {
						e.refused(path)
					}
					if status != http.StatusInternalServerError { // a restart would bring it back, which the answer says
						e.restart()
					}
				}
				storage.refuse.Store(false)
				storage.refuseFence.Store(false)
				storage.lastWrites.Store(nil)
				e.sim.Behave(vendorsim.Conduct{})
				e.write("refresh/prod", drop)
				assert.NotContains(t, leaked, tokenOf(e.creds("prod")))
				assert.NotContains(t, leaked, tokenOf(e.creds("nerd")))
			})
		})
	}
}

func TestGuarantee8ARefreshReplacesTheValidTokensOfAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.creds("link")
		time.Sleep(2 * time.Hour)
		older := []string{tokenOf(e.creds("prod")), tokenOf(e.creds("nerd"))}
		calls := len(e.asked())
		e.write("refresh/prod", nil)
		assert.Equal(t, []string{linkScope + " " + nerdScope, nerdScope}, e.asked()[calls:], "the role link has no valid token to replace")
		e.sim.Behave(down())
		for _, name := range []string{"prod", "nerd"} {
			resp := e.creds(name)
			assert.NotContains(t, older, tokenOf(resp))
			assert.Empty(t, resp.Warnings)
		}
	})
}

func TestGuarantee4ARefreshKeepsTheTokenOfAScopeThatTheVendorRejectsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		own, link, nerd := tokenOf(e.creds("prod")), tokenOf(e.creds("link")), tokenOf(e.creds("nerd"))
		e.sim.Behave(refuseScope(linkScope))
		_, status, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `the vendor gives no new token of the scope "kensho:app:link": kensho.okta.com: 400 Bad Request: invalid_scope; the cached token stays in use; it expires at 2000-01-01T01:00:00Z`)
		assert.NotEqual(t, own, tokenOf(e.creds("prod")))
		assert.NotEqual(t, nerd, tokenOf(e.creds("nerd")), "the other scope is replaced all the same")
		assert.Equal(t, link, tokenOf(e.creds("link")))
	})
}

func TestGuarantee4ReadersDoNotWaitForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		older := tokenOf(e.creds("prod"))
		for _, at := range []int{10, 50} { // before the token is due for renewal, and after
			until(0, at, 0)
			e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
			var operator sync.WaitGroup
			operator.Go(func() {
				_, status, _ := e.request(logical.UpdateOperation, "refresh/prod", nil)
				assert.Equal(t, http.StatusServiceUnavailable, status)
			})
			time.Sleep(3 * time.Second)
			asked := time.Now()
			assert.Equal(t, older, tokenOf(e.creds("prod")))
			assert.Zero(t, time.Since(asked))
			operator.Wait()
		}
	})
}

func TestARefreshMakesAnAttemptAtOnceAlthoughTheEngineBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		until(0, 50, 0)
		e.sim.Behave(down())
		for range 5 {
			e.pass(time.Minute)
			e.creds("prod")
		}
		calls := e.exchanges()
		for range 3 {
			e.request(logical.UpdateOperation, "refresh/prod", nil)
		}
		require.Equal(t, calls+3, e.exchanges(), "one each")
		e.creds("prod")
		assert.Equal(t, calls+3, e.exchanges(), "it backs off again afterwards")
		e.sim.Behave(vendorsim.Conduct{})
		e.write("refresh/prod", nil)
		assert.Empty(t, e.creds("prod").Warnings)
	})
}
