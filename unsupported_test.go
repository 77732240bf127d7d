package tokenbroker_test

import (
	"net/http"
	"strings"
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
		{write, "config/prod", unknown, `unknown vendor "prod"; vendors/ lists the vendors; config/oauth2/<name> is for any other server that speaks OAuth 2.0`},
		{read, "config/prod", unknown, `unknown vendor "prod"; vendors/ lists the vendors; config/oauth2/<name> is for any other server that speaks OAuth 2.0`},
		{read, "config/search", unknown, `config/search has no vendor; did you mean config/sitecore/search?`},
		{remove, "config/search", unknown, `config/search has no vendor; did you mean config/sitecore/search?`},
		{read, "config/kensho", unsupported, `config/kensho does not support read (allowed: list); add a name: config/kensho/<name>`},
		{write, "config/kensho/", unsupported, `config/kensho does not support write (allowed: list); add a name: config/kensho/<name>`},
		{write, "config/Azure-AD/prod", unknown, `unknown vendor "Azure-AD"; did you mean config/entra/prod?`},
		{remove, "config/entr/prod", unknown, `unknown vendor "entr"; did you mean config/entra/prod?`},
		{list, "config/Azure", unknown, `unknown vendor "Azure"; did you mean config/entra/<name>?`},
		{write, "config/sitcore/prod", unknown, `unknown vendor "sitcore"; did you mean config/sitecore/prod?`},
		{read, "config/acme/prod", unknown, `unknown vendor "acme"; vendors/ lists the vendors; config/oauth2/<name> is for any other server that speaks OAuth 2.0`},
		{read, "config/kensho/prod/x", unknown, `unknown path "config/kensho/prod/x"; a name consists of letters, digits and . - _ @ +, and begins and ends with a letter, a digit or _`},
		{read, "config/kensho/a b", unknown, `unknown path "config/kensho/a b"; a name consists of letters, digits and . - _ @ +, and begins and ends with a letter, a digit or _`},
		{write, "config", unsupported, `config does not support write (allowed: list); a credential is at config/<vendor>/<name>; vendors/ lists the vendors`},
		{read, "config/", unsupported, `config does not support read (allowed: list); a credential is at config/<vendor>/<name>; vendors/ lists the vendors`},
		{list, "", unknown, `the mount itself has no data (paths: authorize, callback, clients, config, creds, exchange, hosts, jwks, keypair, metrics, refresh, roles, status, token, vendors)`},
		{read, "", unknown, `the mount itself has no data (paths: authorize, callback, clients, config, creds, exchange, hosts, jwks, keypair, metrics, refresh, roles, status, token, vendors)`},
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
		{read, "Creds/prod", unknown, `unknown path "Creds/prod"; did you mean creds/prod?`},
		{write, "key/batch", unknown, `unknown path "key/batch"; did you mean keypair/batch?`},
		{write, "rotate/prod", unknown, `unknown path "rotate/prod"; did you mean refresh/prod?`},
		{read, "credentials/prod", unknown, `unknown path "credentials/prod"; did you mean creds/prod?`},
		{read, "Credential/search", unknown, `unknown path "Credential/search"; did you mean creds/search?`},
		{read, "credential/kensho/prod", unknown, `unknown path "credential/kensho/prod"; did you mean config/kensho/prod?`},
		{write, "credentials/prod", unknown, `unknown path "credentials/prod"; did you mean config/<vendor>/prod?`},
		{remove, "credential/search", unknown, `unknown path "credential/search"; did you mean config/sitecore/search?`},
		{read, "confg/search", unknown, `unknown path "confg/search"; did you mean config/sitecore/search?`},
		{list, "confg/kensho", unknown, `unknown path "confg/kensho"; did you mean config/kensho?`},
		{list, "credentials/", unknown, `unknown path "credentials"; did you mean config?`},
		{list, "role", unknown, `unknown path "role"; did you mean roles?`},
		{read, "creds/kensho/prod", unknown, `unknown path "creds/kensho/prod"; use the name without its vendor: creds/prod`},
		{read, "status/kensho/prod", unknown, `unknown path "status/kensho/prod"; use the name without its vendor: status/prod`},
		{read, "data/prod", unknown, `unknown path "data/prod" (allowed: authorize, callback, clients, config, creds, exchange, hosts, jwks, keypair, metrics, refresh, roles, status, token, vendors)`},
		{read, "refresh/prod", unsupported, `refresh/prod does not support read (allowed: write)`},
		{write, "creds/prod", unsupported, `creds/prod does not support write (allowed: read)`},
		{remove, "token/prod", unsupported, `token/prod does not support delete (allowed: read)`},
		{patch, "keypair/prod", unsupported, `keypair/prod does not support patch (allowed: delete, read, write)`},
		{list, "metrics/", unsupported, `metrics does not support list (allowed: read)`},
		{read, "metrics/prod", unknown, `unknown path "metrics/prod"; did you mean metrics?`},
		{list, "creds/prod/", unsupported, `creds/prod does not support list (allowed: read)`},
		{list, "config/sitecore/prod/", unsupported, `config/sitecore/prod does not support list (allowed: delete, patch, read, write)`},
		{read, "keypair/prod/active", unknown, `unknown path "keypair/prod/active"; did you mean keypair/prod/activate?`},
		{read, "roles/acme/prod", unknown, `unknown path "roles/acme/prod"; a name consists of letters, digits and . - _ @ +, and begins and ends with a letter, a digit or _`},
		{read, "creds/entra/prod", unknown, `unknown path "creds/entra/prod"; use the name without its vendor: creds/prod`},
		{read, "creds/kensho/prod/x", unknown, `unknown path "creds/kensho/prod/x"; a name consists of letters, digits and . - _ @ +, and begins and ends with a letter, a digit or _`},
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
	assert.Equal(t, `config: "sitecore/prod" is not a name; a name is without a vendor or path, as in config=prod (list config/ for the names)`, message)
}

// The answer to a mistyped path does not repeat a secret that is part of it.
func TestASecretInAMistypedPathIsNotShown(t *testing.T) {
	e := engine.New(t)
	secret := strings.Repeat("s3cret", 8)
	for _, path := range []string{
		secret, "cred/" + secret, "credentials/" + secret, "confg/" + secret, "creds/kensho/" + secret, "config/" + secret, "config/sitcore/" + secret,
		"config/" + secret + "/prod", "keypair/" + secret + "/x", "metrics/" + secret, "refresh/" + secret, "roles/" + secret + "/",
	} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.ListOperation, logical.PatchOperation, logical.DeleteOperation} {
			_, status, message := e.Request(op, path, nil)
			assert.NotContains(t, message, secret, "%s %s", op, path)
			assert.NotEqual(t, http.StatusInternalServerError, status, "%s %s", op, path)
		}
	}
}

func TestANameThatStorageWouldRefuseIsRefused(t *testing.T) {
	e := engine.New(t)
	for _, path := range []string{"config/..", "config/a..b", "creds/a..b", "config/sitecore/a..b", "roles/a..b", "token/..", "keypair/a..b/activate"} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.ListOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
			_, status, message := e.Request(op, path, nil)
			assert.Equal(t, http.StatusBadRequest, status, "%s %s", op, path)
			assert.Equal(t, `name: must not contain ".."`, message, "%s %s", op, path)
		}
	}
}
