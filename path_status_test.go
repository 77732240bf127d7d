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
			"vendor": "kensho", "state": "unused", "exchanges": 0, "consecutive_failures": 0,
			"credential_updated_time": "2000-01-01T00:00:00Z",
		}, e.Read("status/prod").Data)

		engine.Until(0, 30, 0)
		e.Creds("prod")
		assert.Equal(t, map[string]any{
			"vendor": "kensho", "state": "ok", "exchanges": 1, "consecutive_failures": 0, "clock_skew": 90,
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

func TestTheListOfStatusesIsAnOverview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("config/kensho/spare", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Write("config/kensho/broken", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Damage("config/kensho/broken")
		e.Restart()
		overview := func() *logical.Response {
			resp, status, message := e.Request(logical.ListOperation, "status/", nil)
			require.Equal(t, http.StatusOK, status, message)
			return resp
		}
		assert.Equal(t, map[string]any{
			"keys": []string{"broken", "prod", "spare"},
			"key_info": map[string]any{
				"broken": map[string]any{"vendor": "kensho", "state": "unusable"},
				"prod":   map[string]any{"vendor": "kensho", "state": "ok", "expire_time": "2000-01-01T00:59:59Z"},
				"spare":  map[string]any{"vendor": "kensho", "state": "unused"},
			},
		}, overview().Data)

		time.Sleep(time.Hour)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Later(http.StatusServiceUnavailable, "60"))})
		e.Refused("creds/prod")
		assert.Equal(t, map[string]any{"vendor": "kensho", "state": "failed", "expire_time": "2000-01-01T00:59:59Z"}, overview().Data["key_info"].(map[string]any)["prod"])
	})
}

func TestTheListOfStatusesFailsWithStorage(t *testing.T) {
	e := engine.New(t)
	e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
	e.Restart()
	failGets := func(c engine.StorageCall) (fault engine.Fault) {
		if c.Op == "get" {
			fault.Err = engine.ErrStorage
		}
		return fault
	}
	e.BreakStorage().OnCall.Store(&failGets)
	_, status, _ := e.Request(logical.ListOperation, "status/", nil)
	assert.Equal(t, http.StatusInternalServerError, status)
}

func TestAnswersNameTheConfiguredVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("vendors/acme", map[string]any{"definition": `{
			"title": "Acme", "docs": ["https://acme.example"], "fields": {"client_id": {}, "client_secret": {}}, "auth": "client_secret_basic",
			"token_url": "` + vendorsim.OAuthTokenURL + `",
			"grants": [{"grant_type": "client_credentials", "request": {"form": {"grant_type": "client_credentials"}}}]
		}`})
		e.Write("config/acme/billing", map[string]any{"client_id": engine.SecretClient(true)["client_id"], "client_secret": engine.ClientSecret})
		assert.Equal(t, "acme", e.Creds("billing").Data["vendor"])
		assert.Equal(t, "acme", e.Token("billing").Data["vendor"])
		assert.Equal(t, "acme", e.Read("status/billing").Data["vendor"])
		assert.Equal(t, "oauth2", e.Creds("api").Data["vendor"])
		resp, _, _ := e.Request(logical.ListOperation, "status/", nil)
		assert.Equal(t, "acme", resp.Data["key_info"].(map[string]any)["billing"].(map[string]any)["vendor"])
		resp, _, _ = e.Request(logical.UpdateOperation, "refresh/billing", nil)
		assert.Equal(t, "acme", resp.Data["vendor"])
		e.AssertMetrics(map[string]string{
			`tokenbroker_exchanges_total{result="success",vendor="acme"}`:                 "2.0",
			`tokenbroker_exchanges_total{result="rejected",vendor="acme"}`:                "0.0",
			`tokenbroker_exchanges_total{result="success",vendor="oauth2"}`:               "1.0",
			`tokenbroker_token_expires_in_seconds{name="billing",scope="",vendor="acme"}`: "3600.0",
			`tokenbroker_credential_rejected{name="billing",vendor="acme"}`:               "0.0",
		})
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

func TestAListOfStatusesHasPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for _, name := range []string{"a", "b", "c", "d"} {
			e.Write("config/sitecore/"+name, map[string]any{"api_key": engine.APIKey, "verify": false})
		}
		for _, test := range []struct {
			page map[string]any
			want []string
		}{
			{nil, []string{"a", "b", "c", "d"}},
			{map[string]any{"limit": "2"}, []string{"a", "b"}},
			{map[string]any{"limit": "2", "after": "b"}, []string{"c", "d"}},
			{map[string]any{"after": "c"}, []string{"d"}},
			{map[string]any{"after": "bb", "limit": 1}, []string{"c"}},
		} {
			resp, status, message := e.Request(logical.ListOperation, "status/", test.page)
			require.Equal(t, http.StatusOK, status, message)
			assert.Equal(t, test.want, resp.Data["keys"], test.page)
			assert.Len(t, resp.Data["key_info"], len(test.want))
		}
		_, status, message := e.Request(logical.ListOperation, "status/", map[string]any{"limit": -1})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "limit: must not be negative", message)
		resp, _, _ := e.Request(logical.ListOperation, "status/", map[string]any{"after": "d"})
		assert.Empty(t, resp.Data)
	})
}
