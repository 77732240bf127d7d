package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

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

// A person's address can be a name, so that a policy can have a path for each person.
func TestANameMayBeAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const person, role, key = "alice+eu@example.com", "alice+eu@example.com.read", "alice@example.com"
		e := engine.New(t)
		e.Write("keypair/"+key, map[string]any{"allowed_configs": person})
		e.Write("config/kensho/"+person, map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("roles/"+role, map[string]any{"config": person, "ttl": "10m"})
		_, status, message := e.Request(logical.UpdateOperation, "refresh/"+person, engine.Drop)
		require.Equal(t, http.StatusOK, status, message)
		token := e.Creds(person).Data["access_token"]
		e.Restart()
		assert.Equal(t, token, e.Creds(role).Data["access_token"])
		assert.Equal(t, token, e.Token(person).Data["access_token"])
		assert.Equal(t, "ok", e.Read("status/" + person).Data["state"])
		assert.Equal(t, []string{person}, e.Read("keypair/" + key).Data["allowed_configs"])
		require.NoError(t, e.Tick())
		assert.Contains(t, e.MetricsText(), `name="`+person+`"`)
		for _, path := range []string{"config/kensho/" + person, "roles/" + role, "keypair/" + key} {
			resp, status, message := e.Request(logical.ListOperation, path[:strings.LastIndex(path, "/")+1], nil)
			require.Equal(t, http.StatusOK, status, message)
			assert.Equal(t, []string{path[strings.LastIndex(path, "/")+1:]}, resp.Data["keys"])
		}
		for _, path := range []string{"roles/" + role, "config/kensho/" + person, "keypair/" + key} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		for _, name := range []string{"@alice", "alice@", "+", "a+", "a@b..c", "a%40b", "a b"} {
			_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/"+name, map[string]any{"refresh_token": engine.RefreshToken})
			assert.GreaterOrEqual(t, status, http.StatusBadRequest, name)
			_, status, _ = e.Request(logical.UpdateOperation, "roles/x", map[string]any{"config": name})
			assert.Equal(t, http.StatusBadRequest, status, name)
		}
		assert.Empty(t, e.Dump())
	})
}
