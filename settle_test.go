package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestSettingsAreChangedInAnOutageAndKeepTheTokens(t *testing.T) {
	for name, data := range map[string]map[string]any{
		"request_timeout":    {"request_timeout": 20},
		"description":        {"description": "of the search team"},
		"expires":            {"expires": "2001-01-01"},
		"keepalive_interval": {"keepalive_interval": "12h"},
		"all, unverified":    {"request_timeout": 20, "description": "x", "expires": "2001-01-01", "keepalive_interval": 0, "verify": false},
		"cleared":            {"description": nil, "expires": ""},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(name+", "+string(op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine(t)
					e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "description": "before"})
					token, before := e.creds("prod").Data["access_token"], e.read("status/prod").Data
					e.sim.Behave(down())
					exchanges := e.exchanges()
					_, status, message := e.request(op, "config/kensho/prod", data)
					require.Equal(t, http.StatusOK, status, message)
					for range 2 {
						assert.Equal(t, token, e.creds("prod").Data["access_token"])
						assert.Equal(t, before["state"], e.read("status/prod").Data["state"])
						assert.Equal(t, exchanges, e.exchanges())
						e.restart()
					}
					read := e.read("config/kensho/prod").Data
					if seconds, given := data["request_timeout"]; given {
						assert.Equal(t, seconds, read["request_timeout"])
					}
					assert.Equal(t, data["description"] != nil || name == "request_timeout" || name == "expires" || name == "keepalive_interval", read["description"] != nil)
				})
			})
		}
	}
}

func TestWhatDecidesAnExchangeIsVerified(t *testing.T) {
	for name, data := range map[string]map[string]any{
		"default_ttl":                 {"default_ttl": "1h"},
		"max_ttl":                     {"max_ttl": "30m"},
		"ca_cert":                     {"ca_cert": aCertificate, "refresh_token": refreshToken},
		"the same refresh token":      {"refresh_token": refreshToken},
		"a setting and a lifetime":    {"description": "x", "max_ttl": "30m"},
		"a setting, by verify=true":   {"description": "x", "verify": true},
		"a setting, by verify=\"1\"":  {"request_timeout": 20, "verify": "1"},
		"nothing at all":              {},
		"nothing but how to verify":   {"verify": true},
		"a setting and another field": {"expires": "2001-01-01", "product": "link"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				e.sim.Behave(down())
				before := e.exchanges()
				_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", data)
				assert.Equal(t, http.StatusServiceUnavailable, status)
				assert.Equal(t, before+1, e.exchanges())
			})
		})
	}
}

func TestASettingCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.sim.Behave(vendorsim.Conduct{Latency: 15 * time.Second})
		e.write("config/kensho/prod", map[string]any{"request_timeout": 20})
		_, status, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusOK, status, message)
		e.write("config/kensho/prod", map[string]any{"request_timeout": 10})
		_, status, _ = e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
	})
}

func TestGuarantee3ASettingLosesNoRefreshTokenThatIsNotStoredYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 11)
		storage.refuse.Store(true)
		e.request(logical.ReadOperation, "creds/prod", nil)
		storage.refuse.Store(false)
		e.write("config/kensho/prod", map[string]any{"description": "x"})
		time.Sleep(6 * time.Second) // after which storage is tried again
		e.creds("prod")
		e.restart()
		until(2, 0, 11)
		e.creds("prod")
	})
}

func TestGuarantee3ASettingMattersNotToARefreshTokenThatIsHeldForAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		e.sim.AddRefreshToken("link-streaming", anotherToken)
		storage.refuse.Store(true)
		e.request(logical.UpdateOperation, "config/kensho/new", map[string]any{"refresh_token": anotherToken})
		storage.refuse.Store(false)
		e.write("config/kensho/new", map[string]any{"refresh_token": anotherToken, "description": "x", "expires": "2001-01-01", "request_timeout": 20})
	})
}

func TestASettingOfACredentialWhoseKeyPairWasActivatedKeepsItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := newRotationEngine(t)
		e.register(nextClientID, pending.Data["public_key"])
		status, message := e.activate(map[string]any{"client_id": nextClientID})
		require.Equal(t, http.StatusOK, max(status, http.StatusOK), message)
		tokens := e.tokens()
		e.sim.Behave(down())
		for range 2 {
			e.write("config/kensho/scribe", map[string]any{"description": "x"})
			assert.Equal(t, tokens, e.tokens())
			e.restart()
			assert.Equal(t, tokens, e.tokens())
		}
	})
}
