package tokenbroker_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAStatusTellsHowACredentialIsDoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Skew: 90 * time.Second})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		assert.Equal(t, map[string]any{
			"provider": "kensho", "state": "unused", "exchanges": 0, "consecutive_failures": 0,
			"credential_updated_time": "2000-01-01T00:00:00Z",
		}, e.read("status/prod").Data)

		until(0, 30, 0)
		e.creds("prod")
		assert.Equal(t, map[string]any{
			"provider": "kensho", "state": "ok", "exchanges": 1, "consecutive_failures": 0, "clock_skew": 90,
			"credential_updated_time": "2000-01-01T00:00:00Z",
			"expire_time":             "2000-01-01T00:58:29Z",
			"last_exchange_time":      "2000-01-01T00:30:00Z",
			"credential_expire_time":  "2000-01-08T00:30:00Z",
		}, e.read("status/prod").Data)

		resp, status, _ := e.request(logical.ListOperation, "status/", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Equal(t, []string{"prod"}, resp.Data["keys"])
		status, message := e.refused("status/nobody")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `"nobody" is no credential`)
	})
}

func TestARefreshForgetsTheTokenAndExchangesNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		older := e.creds("prod").Data["access_token"]
		until(0, 10, 0)
		resp, status, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, map[string]any{"expire_time": "2000-01-01T01:10:00Z", "provider": "kensho"}, resp.Data)
		assert.NotEqual(t, older, e.creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.exchanges())

		_, status, _ = e.request(logical.UpdateOperation, "refresh/nobody", nil)
		assert.Equal(t, http.StatusBadRequest, status)
	})
}

func TestAClockThatIsOffIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		var log bytes.Buffer
		e.logger = hclog.New(&hclog.LoggerOptions{Output: &log})
		e.restart()
		e.sim.Behave(vendorsim.Conduct{Skew: -5 * time.Minute})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		for range 5 {
			e.creds("prod")
			time.Sleep(time.Hour)
		}
		assert.Equal(t, 1, strings.Count(log.String(), "clock"), "once, and not with each exchange")
	})
}
