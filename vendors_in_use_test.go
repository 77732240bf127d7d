package tokenbroker_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A list of the vendors that have credentials costs storage as much as one of all names.
func TestAWriteOfANewNameListsNoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", engine.RefreshToken)
		credential := map[string]any{"refresh_token": engine.RefreshToken, "verify": false}
		e.Write("config/kensho/first", credential)
		storage := e.BreakStorage()
		lists := func() (n int) {
			for _, call := range storage.Calls() {
				if call.Op == "list" && call.Key == "config/" {
					n++
				}
			}
			return n
		}
		for n := range 5 {
			e.Write(fmt.Sprint("config/kensho/name", n), credential)
			e.Creds(fmt.Sprint("name", n))
		}
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
		e.Backend.InvalidateKey(t.Context(), "config/oauth2/service")
		_, status, message = e.Request(logical.UpdateOperation, "config/kensho/service", credential)
		assert.Equal(t, http.StatusBadRequest, status, message)
		assert.Contains(t, message, "config/oauth2/service")
	})
}
