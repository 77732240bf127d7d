package tokenbroker_test

import (
	"net/http"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestTheNamesOfTokensAreListed(t *testing.T) {
	e := engine.NewOAuth(t)
	e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "verify": false})
	e.Write("roles/web", map[string]any{"config": "search", "scope": "discover"})
	e.Write("roles/damaged", map[string]any{"config": "search"})
	e.Damage("role/damaged")
	e.Write("roles/newer", map[string]any{"config": "search"})
	e.SetVersion(1<<20, "role/newer")
	list := func(path string) map[string]any {
		resp, status, message := e.Request(logical.ListOperation, path, nil)
		require.Equal(t, http.StatusOK, status, message)
		return resp.Data
	}
	info := map[string]any{
		"api": map[string]any{"vendor": "oauth2"}, "search": map[string]any{"vendor": "sitecore"},
		"mine": map[string]any{"config": "api"}, "web": map[string]any{"config": "search"},
	}
	assert.Equal(t, map[string]any{"keys": []string{"api", "mine", "search", "web"}, "key_info": info}, list("creds/"))
	delete(info, "mine") // a dedicated role, which has no token without a lease
	assert.Equal(t, map[string]any{"keys": []string{"api", "search", "web"}, "key_info": info}, list("token/"))
}
