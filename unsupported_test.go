package tokenbroker_test

import (
	"net/http"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// A request for a path or an operation that the engine does not have is answered with what to use
// instead.
func TestAMistypedPathIsExplained(t *testing.T) {
	e := engine.New(t)
	e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "verify": false})
	const (
		read, list, write, patch, remove = logical.ReadOperation, logical.ListOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation

		unknown, unsupported = http.StatusBadRequest, http.StatusMethodNotAllowed
	)
	for _, c := range []struct {
		op     logical.Operation
		path   string
		status int
		want   string
	}{
		{write, "config/prod", unknown, `unknown vendor "prod"; a credential is at config/<vendor>/<name> (vendors: kensho, oauth2, sitecore)`},
		{read, "config/prod", unknown, `unknown vendor "prod"; a credential is at config/<vendor>/<name> (vendors: kensho, oauth2, sitecore)`},
		{read, "config/search", unknown, `config/search has no vendor; did you mean config/sitecore/search?`},
		{remove, "config/search", unknown, `config/search has no vendor; did you mean config/sitecore/search?`},
		{read, "config/kensho", unsupported, `config/kensho does not support read (allowed: list); add a name: config/kensho/<name>`},
		{write, "config/kensho/", unsupported, `config/kensho does not support write (allowed: list); add a name: config/kensho/<name>`},
		{write, "config/entra/prod", unknown, `unknown vendor "entra"; Microsoft Entra ID is a preset: use config/oauth2/prod with preset=entra`},
		{write, "config/Azure-AD/prod", unknown, `unknown vendor "Azure-AD"; Microsoft Entra ID is a preset: use config/oauth2/prod with preset=entra`},
		{list, "config/entra", unknown, `unknown vendor "entra"; Microsoft Entra ID is a preset: use config/oauth2/<name> with preset=entra`},
		{write, "config/sitcore/prod", unknown, `unknown vendor "sitcore"; did you mean config/sitecore/prod?`},
		{read, "config/acme/prod", unknown, `unknown vendor "acme"; a credential is at config/<vendor>/<name> (vendors: kensho, oauth2, sitecore)`},
		{read, "config/kensho/prod/x", unknown, `unknown path "config/kensho/prod/x"; a name consists of letters, digits, dots, dashes and underscores`},
		{read, "config/kensho/a b", unknown, `unknown path "config/kensho/a b"; a name consists of letters, digits, dots, dashes and underscores`},
		{write, "config", unsupported, `config does not support write (allowed: list); a credential is at config/<vendor>/<name> (vendors: kensho, oauth2, sitecore)`},
		{read, "config/", unsupported, `config does not support read (allowed: list); a credential is at config/<vendor>/<name> (vendors: kensho, oauth2, sitecore)`},
		{list, "", unknown, `the mount itself has no data; list one of config/, creds/, keypair/, roles/, status/ or token/`},
		{read, "", unknown, `the mount itself has no data; list one of config/, creds/, keypair/, roles/, status/ or token/`},
		{read, "creds", unsupported, `creds does not support read (allowed: list); add a name: creds/<name>`},
		{read, "creds/", unsupported, `creds does not support read (allowed: list); add a name: creds/<name>`},
		{read, "token", unsupported, `token does not support read (allowed: list); add a name: token/<name>`},
		{read, "roles", unsupported, `roles does not support read (allowed: list); add a name: roles/<name>`},
		{read, "status", unsupported, `status does not support read (allowed: list); add a name: status/<name>`},
		{write, "keypair", unsupported, `keypair does not support write (allowed: list); add a name: keypair/<name>`},
		{write, "refresh", unknown, `refresh: add a name: refresh/<name>`},
		{list, "refresh/", unknown, `refresh: add a name: refresh/<name>`},
		{read, "cred/prod", unknown, `unknown path "cred/prod"; did you mean creds/prod?`},
		{read, "tokens/prod", unknown, `unknown path "tokens/prod"; did you mean token/prod?`},
		{list, "role", unknown, `unknown path "role"; did you mean roles?`},
		{read, "creds/kensho/prod", unknown, `unknown path "creds/kensho/prod"; use the name without its vendor: creds/prod`},
		{read, "status/kensho/prod", unknown, `unknown path "status/kensho/prod"; use the name without its vendor: status/prod`},
		{read, "data/prod", unknown, `unknown path "data/prod" (allowed: config, creds, keypair, metrics, refresh, roles, status, token)`},
		{read, "refresh/prod", unsupported, `refresh/prod does not support read (allowed: write)`},
		{write, "creds/prod", unsupported, `creds/prod does not support write (allowed: read)`},
		{remove, "token/prod", unsupported, `token/prod does not support delete (allowed: read)`},
		{patch, "keypair/prod", unsupported, `keypair/prod does not support patch (allowed: delete, read, write)`},
		{list, "metrics", unsupported, `metrics does not support list (allowed: read)`},
	} {
		var data map[string]any
		if c.op == write || c.op == patch {
			data = map[string]any{"refresh_token": engine.RefreshToken}
		}
		_, status, message := e.Request(c.op, c.path, data)
		assert.Equal(t, c.status, status, "%s %s", c.op, c.path)
		assert.Equal(t, c.want, message, "%s %s", c.op, c.path)
	}
}

func TestARoleWithTheVendorOfItsCredentialIsExplained(t *testing.T) {
	e := engine.New(t)
	_, status, message := e.Request(logical.UpdateOperation, "roles/web", map[string]any{"config": "sitecore/prod"})
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Equal(t, `config: "sitecore/prod" is not a name; use the name without its path: config=prod`, message)
}
