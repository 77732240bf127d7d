package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestStatusShowsTheStateOfACredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Skew: 90 * time.Second})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		assert.Equal(t, map[string]any{
			"provider": "kensho", "state": "unused", "exchanges": 0, "consecutive_failures": 0,
			"credential_updated_time": "2000-01-01T00:00:00Z",
		}, e.Read("status/prod").Data)

		engine.Until(0, 30, 0)
		e.Creds("prod")
		assert.Equal(t, map[string]any{
			"provider": "kensho", "state": "ok", "exchanges": 1, "consecutive_failures": 0, "clock_skew": 90,
			"credential_updated_time": "2000-01-01T00:00:00Z",
			"expire_time":             "2000-01-01T00:58:29Z",
			"last_exchange_time":      "2000-01-01T00:30:00Z",
			"credential_expire_time":  "2000-01-08T00:30:00Z",
		}, e.Read("status/prod").Data)

		resp, status, _ := e.Request(logical.ListOperation, "status/", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Equal(t, []string{"prod"}, resp.Data["keys"])
		status, message := e.Refused("status/nobody")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `no credential named "nobody"`)
	})
}

func TestClockSkewIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		var log engine.Log
		e.Logger = hclog.New(&hclog.LoggerOptions{Output: &log})
		e.Restart()
		e.Sim.Behave(vendorsim.Conduct{Skew: -5 * time.Minute})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		for range 5 {
			e.Creds("prod")
			time.Sleep(time.Hour)
		}
		assert.Equal(t, 1, strings.Count(log.String(), "clock"), "one line, not one for each exchange")
	})
}
