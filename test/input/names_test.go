package input_test

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

func TestNamesInFieldsAreCheckedFirst(t *testing.T) {
	long := strings.Repeat("a", 100<<10)
	for name, bad := range map[string]struct {
		path, field, value, says string
	}{
		"a relative path":                      {"roles/new", "config", "../../x", `config: "../../x" is not a name; a name is without a vendor or path, as in config=x (list config/ for the names)`},
		"a path":                               {"roles/new", "config", "oauth2/api", `config: "oauth2/api" is not a name; a name is without a vendor or path, as in config=api (list config/ for the names)`},
		"a line break":                         {"roles/new", "config", "api\nroot", `config: (8 characters, not shown) is not a name`},
		"a hundred kilobytes":                  {"roles/new", "config", long, "is too long: 102400 bytes (at most 128)"},
		"a hundred kilobytes with a slash":     {"roles/new", "config", "/" + long, "is too long: 102401 bytes (at most 128)"},
		"a relative path as a key pair":        {"config/oauth2/api", "keypair", "../../x", `keypair: "../../x" is not a name; a name is without a vendor or path, as in keypair=x (list keypair/ for the names)`},
		"a hundred kilobytes as a key pair":    {"config/oauth2/api", "keypair", long, "is too long: 102400 bytes (at most 128)"},
		"a relative path as Kensho's key pair": {"config/kensho/new", "keypair", "../../x", `keypair: "../../x" is not a name`},
		"an unknown field":                     {"roles/new", long, "x", "unknown field [name of "},
		"an unknown grant":                     {"config/oauth2/api", "grant_type", long, "grant_type: "},
		"an unknown product":                   {"config/kensho/new", "product", long, "product: "},
		"an unknown algorithm":                 {"config/oauth2/keys", "signing_algorithm", long, "signing_algorithm: "},
		"an unknown key type":                  {"keypair/new", "key_type", long, "key_type: "},
		"an invalid scope":                     {"config/oauth2/api", "scope", `"` + long, "scope: "},
		"an unknown scope":                     {"roles/new", "scope", long, "scope: "},
		"an invalid value of a part of a host": {"config/okta/new", "domain", "!" + long, "domain: "},
		"an unknown value of another vendor":   {"config/docusign/new", "host", long, "host: "},
		"an unknown source":                    {"config/oauth2/api", "private_key_source", long, "private_key_source: "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				data := map[string]any{bad.field: bad.value}
				switch {
				case bad.path == "roles/new" && bad.field == "scope":
					data["config"] = "api"
				case bad.path == "config/oauth2/keys":
					data["client_id"], data["private_key"], data["token_url"] = "id", engine.PrivateKeyPEM(), "https://id.example/token"
				case bad.field == "product":
					data["refresh_token"] = engine.RefreshToken
				}
				before := e.Dump()
				_, status, message := e.Request(logical.UpdateOperation, bad.path, data)
				assert.Equal(t, http.StatusBadRequest, status)
				require.Less(t, len(message), 800, "the value is truncated")
				assert.Contains(t, message, bad.says)
				assert.Equal(t, before, e.Dump(), "nothing is stored")
			})
		})
	}
}

func TestNamesInPathsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		longest := strings.Repeat("n", 128)
		before := e.Dump()
		for _, path := range []string{"config/oauth2/", "config/kensho/", "roles/", "keypair/", "creds/", "token/", "refresh/"} {
			for _, name := range []string{longest + "n", strings.Repeat("n", 40_000)} {
				for _, op := range []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.ReadOperation} {
					_, status, message := e.Request(op, path+name, nil)
					assert.Equal(t, http.StatusBadRequest, status, path)
					assert.Contains(t, message, "bytes (at most 128)")
					assert.Less(t, len(message), 100)
				}
				_, exists, err := e.Backend.HandleExistenceCheck(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: path + name, Storage: e.Storage})
				require.NoError(t, err)
				assert.False(t, exists)
			}
		}
		assert.Equal(t, before, e.Dump())
		e.Write("roles/"+longest, map[string]any{"config": "api"})
		e.Creds(longest)
	})
}

// Vault matches the value as it was sent against a policy's allowed_parameters and
// denied_parameters. If the engine trimmed it, a value with spaces would pass a policy that
// denies the same value without them.
func TestWhiteSpaceAroundAPinnedFieldIsRejected(t *testing.T) {
	for name, c := range map[string]struct {
		path, field string
		value       any
		accepted    bool
	}{
		"config":                                  {"roles/mine", "config", "api ", false},
		"config after a line break":               {"roles/mine", "config", "\napi", false},
		"config after a no-break space":           {"roles/mine", "config", "\u00a0api", false},
		"config without white space":              {"roles/mine", "config", "api", true},
		"scope":                                   {"roles/mine", "scope", "read ", false},
		"scope, leading":                          {"roles/mine", "scope", "\tread", false},
		"scope in a list":                         {"roles/mine", "scope", []any{"read", " write"}, false},
		"scopes separated by a comma and a space": {"roles/mine", "scope", "read, write", true},
		"scope without white space":               {"roles/mine", "scope", []any{"read"}, true},
		"an empty scope":                          {"roles/mine", "scope", "", true},
		"keypair":                                 {"config/oauth2/api", "keypair", "prod ", false},
		"keypair of Kensho":                       {"config/kensho/new", "keypair", " prod", false},
		"allowed_configs":                         {"keypair/prod", "allowed_configs", "api ", false},
		"allowed_configs in a list":               {"keypair/prod", "allowed_configs", []any{" api"}, false},
		"allowed_configs separated by a comma and a space": {"keypair/prod", "allowed_configs", "api, other", true},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(name+", "+string(op), func(t *testing.T) {
				if op == logical.PatchOperation && c.path != "roles/mine" {
					return
				}
				synctest.Test(t, func(t *testing.T) {
					e := engine.NewOAuth(t)
					before := e.Dump()
					_, status, message := e.Request(op, c.path, map[string]any{c.field: c.value})
					if c.accepted {
						assert.Equal(t, http.StatusOK, status, message)
						return
					}
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, message, c.field+": must not start or end with white space")
					assert.Equal(t, before, e.Dump())
				})
			})
		}
	}
}
