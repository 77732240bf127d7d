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

// refreshFaults are the ways in which a refresh fails at Sitecore while the API key works.
var refreshFaults = map[string]http.HandlerFunc{
	"500":                 vendorsim.Answer(500, `"down"`),
	"405":                 vendorsim.Answer(405, ""),
	"an HTML page":        vendorsim.Answer(200, "<html>"),
	"200 without a token": vendorsim.Answer(200, "{}"),
	"200 with an error":   vendorsim.Answer(200, `{"error":"internal_error"}`),
	"a reset connection":  vendorsim.Reset,
	"a timeout":           vendorsim.Hang,
	"401":                 vendorsim.Answer(401, ""),
}

// failingRefresh makes only the requests that use a refresh token fail.
func failingRefresh(fault http.HandlerFunc) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if r.Method == http.MethodPut {
			return fault
		}
		return nil
	}}
}

// Guarantee 4: when the refresh token fails, the engine exchanges the API key instead.
func TestFaultAPIKeyReplacesAFailedRefresh(t *testing.T) {
	for name, fault := range refreshFaults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "access_expiry": "1h"})
				first := engine.TokenOf(e.Creds("search"))
				e.Sim.Behave(failingRefresh(fault))
				time.Sleep(2 * time.Hour)
				assert.NotEqual(t, first, engine.TokenOf(e.Creds("search")), "with no valid token, the API key is used at once")

				// With a valid token, the refresh is retried before the API key is used.
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
		tally.Record(t, tally.Row{Fault: "vendor: a refresh fails that an API key can replace", Tried: len(refreshFaults), Note: "readers get a token of the key"})
	}
}

func TestGuarantee4FailedRefreshDoesNotRefuseTheWrite(t *testing.T) {
	for name, fault := range refreshFaults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Sim.Behave(failingRefresh(fault))
				e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "refresh_token": engine.RefreshToken})
				e.Creds("search")
			})
		})
	}
}

func TestGuarantee4APIKeyIsNotUsedWhileTheVendorThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "access_expiry": "1h"})
		e.Creds("search")
		e.Sim.Behave(failingRefresh(vendorsim.Throttle("60")))
		time.Sleep(2 * time.Hour)
		calls := e.Exchanges()
		for range 5 {
			_, status, _ := e.Request(logical.ReadOperation, "creds/search", nil)
			require.Equal(t, http.StatusServiceUnavailable, status)
		}
		assert.Equal(t, calls+1, e.Exchanges())
	})
}
