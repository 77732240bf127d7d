package rotation_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// One vendor hangs, and the secrets of others rotate; Vault's sweep does not wait for it.
func TestGuarantee11AHangingVendorDoesNotKeepOthersFromRotating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		hanging := newAccount(e, "okta/client_secret", map[string]any{"rotation_period": "30d", "request_timeout": "1m"})
		var others []account
		for i := range 12 {
			vendor, fields := e.Sim.AddRotating(entra, fmt.Sprint(i))
			fields["rotation_period"] = "30d"
			a := account{Engine: e, kind: entra, name: fmt.Sprint("app", i), vendor: vendor}
			e.Write(a.path(), fields)
			others = append(others, a)
		}
		e.Pass(30*day - time.Minute)
		first, former := hanging.fields()["client_secret"], others[11].fields()["client_secret"]
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Host == "login.microsoftonline.com" || r.Host == "graph.microsoft.com" {
				return nil
			}
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}})
		for range 10 {
			time.Sleep(time.Minute)
			began := time.Now()
			require.NoError(t, e.Tick())
			assert.LessOrEqual(t, time.Since(began), 30*time.Second)
		}
		assert.NotEqual(t, former, others[11].fields()["client_secret"])
		assert.Equal(t, first, hanging.fields()["client_secret"])
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.NotEqual(t, first, hanging.fields()["client_secret"])
	})
}

// A hundred secrets that are due at once are rotated a few at a time.
func TestGuarantee11FewRotationsRunAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for i := range 100 {
			vendor, fields := e.Sim.AddRotating(entra, fmt.Sprint(i))
			fields["rotation_period"] = "30d"
			e.Write(fmt.Sprintf("config/%s/app%d", vendor, i), fields)
		}
		e.Pass(30*day - time.Minute)
		e.Sim.Behave(vendorsim.Conduct{Latency: 2 * time.Second})
		e.Pass(20 * time.Minute)
		assert.LessOrEqual(t, e.Sim.MostInFlight(), 4)
		for i := range 100 {
			rotation := e.Read(fmt.Sprintf("status/app%d", i)).Data["rotation"].(map[string]any)
			assert.Contains(t, rotation, "last_vault_rotation", "app%d", i)
		}
	})
}
