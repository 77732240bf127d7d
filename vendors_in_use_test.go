package tokenbroker_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

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
		for _, key := range []string{"vendor-in-use/oauth2", "config/oauth2/service"} {
			e.Backend.InvalidateKey(t.Context(), key)
		}
		_, status, message = e.Request(logical.UpdateOperation, "config/kensho/service", credential)
		assert.Equal(t, http.StatusBadRequest, status, message)
		assert.Contains(t, message, "config/oauth2/service")
	})
}
