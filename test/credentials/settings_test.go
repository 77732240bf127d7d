package credentials_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestSettingsCanBeChangedInAnOutageAndKeepTheTokens(t *testing.T) {
	for name, data := range map[string]map[string]any{
		"request_timeout":          {"request_timeout": 20},
		"description":              {"description": "of the search team"},
		"expires":                  {"expires": "2001-01-01"},
		"keepalive_interval":       {"keepalive_interval": "12h"},
		"all settings, unverified": {"request_timeout": 20, "description": "x", "expires": "2001-01-01", "keepalive_interval": 0, "verify": false},
		"cleared":                  {"description": nil, "expires": ""},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(name+", "+string(op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.New(t)
					e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "description": "before"})
					token, before := e.Creds("prod").Data["access_token"], e.Read("status/prod").Data
					e.Sim.Behave(engine.Down())
					exchanges := e.Exchanges()
					_, status, message := e.Request(op, "config/kensho/prod", data)
					require.Equal(t, http.StatusOK, status, message)
					for range 2 {
						assert.Equal(t, token, e.Creds("prod").Data["access_token"])
						assert.Equal(t, before["state"], e.Read("status/prod").Data["state"])
						assert.Equal(t, exchanges, e.Exchanges())
						e.Restart()
					}
					read := e.Read("config/kensho/prod").Data
					if seconds, given := data["request_timeout"]; given {
						assert.Equal(t, seconds, read["request_timeout"])
					}
					assert.Equal(t, data["description"] != nil || name == "request_timeout" || name == "expires" || name == "keepalive_interval", read["description"] != nil)
				})
			})
		}
	}
}

func TestFieldsThatAffectAnExchangeAreVerified(t *testing.T) {
	for name, data := range map[string]map[string]any{
		"default_ttl":                 {"default_ttl": "1h"},
		"max_ttl":                     {"max_ttl": "30m"},
		"ca_cert":                     {"ca_cert": engine.ACertificate, "refresh_token": engine.RefreshToken},
		"the same refresh token":      {"refresh_token": engine.RefreshToken},
		"a setting and a lifetime":    {"description": "x", "max_ttl": "30m"},
		"a setting, by verify=true":   {"description": "x", "verify": true},
		"a setting, by verify=\"1\"":  {"request_timeout": 20, "verify": "1"},
		"no field":                    {},
		"only verify":                 {"verify": true},
		"a setting and another field": {"expires": "2001-01-01", "product": "link"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				e.Sim.Behave(engine.Down())
				before := e.Exchanges()
				_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", data)
				assert.Equal(t, http.StatusServiceUnavailable, status)
				assert.Equal(t, before+1, e.Exchanges())
			})
		})
	}
}

func TestASettingAppliesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Sim.Behave(vendorsim.Conduct{Latency: 15 * time.Second})
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20})
		_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusOK, status, message)
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 10})
		_, status, _ = e.Request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
	})
}

func TestASettingKeepsTheTokensOfAnActivatedKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := engine.NewRotation(t)
		e.Register(engine.NextClientID, pending.Data["public_key"])
		status, message := e.Activate(map[string]any{"client_id": engine.NextClientID})
		require.Equal(t, http.StatusOK, max(status, http.StatusOK), message)
		tokens := e.Tokens()
		e.Sim.Behave(engine.Down())
		for range 2 {
			e.Write("config/kensho/scribe", map[string]any{"description": "x"})
			assert.Equal(t, tokens, e.Tokens())
			e.Restart()
			assert.Equal(t, tokens, e.Tokens())
		}
	})
}
