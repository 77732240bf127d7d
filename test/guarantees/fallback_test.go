package guarantees_test

import (
	"net/http"
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

// waysToFail are what becomes of a refresh at Sitecore while its API key works.
var waysToFail = map[string]http.HandlerFunc{
	"500":                    vendorsim.Answer(500, `"down"`),
	"405":                    vendorsim.Answer(405, ""),
	"a page":                 vendorsim.Answer(200, "<html>"),
	"200 without a token":    vendorsim.Answer(200, "{}"),
	"200 with an error":      vendorsim.Answer(200, `{"error":"internal_error"}`),
	"a connection that ends": vendorsim.Reset,
	"no answer in time":      vendorsim.Hang,
	"a refusal":              vendorsim.Answer(401, ""),
}

// refreshing has only requests that refresh a token fail.
func refreshing(fault http.HandlerFunc) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if r.Method == http.MethodPut {
			return fault
		}
		return nil
	}}
}

// Guarantee 4: an API key takes over from a refresh that fails.
func TestFaultARefreshFailsThatAnAPIKeyCanReplace(t *testing.T) {
	for name, fault := range waysToFail {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "access_expiry": "1h"})
				first := engine.TokenOf(e.Creds("search"))
				e.Sim.Behave(refreshing(fault))
				time.Sleep(2 * time.Hour)
				assert.NotEqual(t, first, engine.TokenOf(e.Creds("search")), "no valid token is left, so that the key is used at once")

				// While there is one, a refresh that fails is tried again before.
				second := engine.TokenOf(e.Creds("search"))
				time.Sleep(50 * time.Minute)
				for range 3 {
					e.Creds("search")
					time.Sleep(15 * time.Second)
				}
				third := e.Creds("search")
				assert.NotEqual(t, second, engine.TokenOf(third))
				assert.Empty(t, third.Warnings)
				assert.Equal(t, "ok", e.Read("status/search").Data["state"])
			})
		})
	}
	if !t.Failed() {
		tally.Record(t, tally.Row{Fault: "vendor: a refresh fails that an API key can replace", Tried: len(waysToFail), Note: "readers get a token of the key"})
	}
}

func TestGuarantee4AWriteIsNotRefusedForARefreshThatFails(t *testing.T) {
	for name, fault := range waysToFail {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Sim.Behave(refreshing(fault))
				e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "refresh_token": engine.RefreshToken})
				e.Creds("search")
			})
		})
	}
}

func TestGuarantee4AnAPIKeyIsLeftAloneWhileAVendorThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "access_expiry": "1h"})
		e.Creds("search")
		e.Sim.Behave(refreshing(vendorsim.Throttle("60")))
		time.Sleep(2 * time.Hour)
		calls := e.Exchanges()
		for range 5 {
			_, status, _ := e.Request(logical.ReadOperation, "creds/search", nil)
			require.Equal(t, http.StatusServiceUnavailable, status)
		}
		assert.Equal(t, calls+1, e.Exchanges())
	})
}
