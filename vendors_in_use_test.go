package tokenbroker_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A list of the vendors in the keys of credentials costs storage as much as one of all names.
func TestNeitherAWriteNorAFirstReadListsNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", engine.RefreshToken)
		credential := map[string]any{"refresh_token": engine.RefreshToken, "verify": false}
		e.Write("config/kensho/first", credential)
		storage := e.BreakStorage()
		lists := func() (n int) {
			for _, call := range storage.Calls() {
				if call.Op == "list" && strings.HasPrefix(call.Key, "config/") {
					n++
				}
			}
			return n
		}
		for n := range 5 {
			e.Write(fmt.Sprint("config/kensho/name", n), credential)
			e.Creds(fmt.Sprint("name", n))
		}
		e.Restart()
		e.Creds("name1")
		assert.Zero(t, lists())

		// The first credential of another vendor is found, and so is one that another node has written.
		e.Sim.AddAPIKey(engine.APIKey)
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "verify": false})
		_, status, message := e.Request(logical.UpdateOperation, "config/kensho/search", credential)
		assert.Equal(t, http.StatusBadRequest, status, message)
		standby := e.Backend
		e.Restart()
		e.Write("config/oauth2/service", map[string]any{"client_id": "a", "client_secret": "a-secret", "token_url": vendorsim.OAuthTokenURL, "verify": false})
		e.Backend = standby
		for _, key := range []string{"config/oauth2/service", "vendor-in-use/oauth2"} {
			e.Backend.InvalidateKey(t.Context(), key)
		}
		_, status, message = e.Request(logical.UpdateOperation, "config/kensho/service", credential)
		assert.Equal(t, http.StatusBadRequest, status, message)
		assert.Contains(t, message, "config/oauth2/service")
	})
}

// The refresh token of a write may be rotated by its verification.
func TestAWriteExchangesNothingBeforeItsVendorIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		storage.Refuse.Store(true)
		_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		assert.Equal(t, http.StatusInternalServerError, status, message)
		assert.Zero(t, e.Exchanges())
		storage.Refuse.Store(false)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("prod")
	})
}

func TestCredentialsWhoseVendorIsNotMarkedAreFoundWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		require.NoError(t, e.Storage.Delete(t.Context(), "vendor-in-use/kensho"))
		e.Restart()
		e.Refused("creds/prod")
		e.Pass(time.Minute)
		e.Creds("prod")
	})
}
