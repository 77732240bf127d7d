package faults_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// dedicatedFailures are the failures of an exchange that pass without an operator.
var dedicatedFailures = map[string]http.HandlerFunc{
	"throttled":                  vendorsim.Throttle("3000"),
	"down":                       vendorsim.Answer(503, ""),
	"a timeout":                  vendorsim.Hang,
	"status 200 without a token": vendorsim.Answer(200, "{}"),
}

// A passing failure of an exchange for a dedicated role counts only against that role
// (guarantee 15).
func TestFaultADedicatedReadersExchangeFails(t *testing.T) {
	for name, fault := range dedicatedFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/other", map[string]any{"config": "api", "dedicated": true})
				e.Write("roles/ours", map[string]any{"config": "api", "scope": "write"})
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(fault)})
				status, message := e.Refused("creds/mine")
				assert.GreaterOrEqual(t, status, 502, message)
				e.Sim.Behave(vendorsim.Conduct{})
				calls := e.Exchanges()
				e.Refused("creds/mine")
				assert.Equal(t, calls, e.Exchanges(), "the role backs off")
				e.Creds("other")
				e.Creds("ours")
				resp := e.Creds("api")
				assert.Empty(t, resp.Warnings)

				data := e.Read("status/api").Data
				assert.Equal(t, "failed", data["state"])
				assert.Equal(t, data["last_error"], data["dedicated_roles"].(map[string]any)["mine"].(map[string]any)["last_error"])
				e.Write("refresh/api", nil)
				e.Creds("mine")
				data = e.Read("status/api").Data
				assert.Equal(t, "ok", data["state"])
				assert.NotContains(t, data, "dedicated_roles")
			})
		})
	}
	if !t.Failed() {
		tally.Record(t, tally.Row{Fault: "vendor: an exchange of a dedicated reader fails", Tried: len(dedicatedFailures), Note: "all other readers get a token"})
	}
}
