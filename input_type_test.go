package tokenbroker_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAValueOfAnotherTypeIsRefused(t *testing.T) {
	for name, bad := range map[string]struct {
		path  string
		field string
		value any
		says  string
	}{
		"a number for a string":             {"config/oauth2/api", "client_id", float64(1234567890123456789), "client_id: must be a string"},
		"a boolean for a string":            {"config/oauth2/api", "key_id", true, "key_id: must be a string"},
		"a list for a string":               {"config/oauth2/api", "client_id", []any{"first", "second"}, "client_id: must be a string"},
		"an object for a string":            {"config/oauth2/api", "token_url", map[string]any{"a": "b"}, "token_url: must be a string"},
		"a number in a list":                {"config/oauth2/api", "scope", []any{"read", float64(7)}, "scope: must be a list of strings"},
		"a number for a list":               {"config/oauth2/api", "scope", float64(7), "scope: must be a list of strings"},
		"a boolean in a map":                {"config/oauth2/api", "token_params", map[string]any{"offline": true}, `token_params: the value of "offline" must be a string`},
		"a number in a map":                 {"config/oauth2/api", "preset_params", map[string]any{"account_id": float64(7)}, `preset_params: the value of "account_id" must be a string`},
		"null in a map that is written":     {"config/oauth2/api", "token_params", map[string]any{"offline": nil}, `token_params: the value of "offline" must be a string`},
		"a number for a map":                {"config/oauth2/api", "token_params", float64(7), "token_params: must be name=value"},
		"no name=value":                     {"config/oauth2/api", "preset_params", "acme", "preset_params: must be name=value"},
		"JSON on the command line":          {"config/oauth2/api", "token_params", `{"audience":"x"}`, "token_params: must not be a JSON string; use token_params=audience=..."},
		"an object in a list":               {"config/oauth2/api", "token_params", []any{map[string]any{"a": "b"}}, "token_params: must be name=value"},
		"a number for a boolean":            {"config/oauth2/api", "verify", float64(7), "verify: must be true or false"},
		"a word for a boolean":              {"config/oauth2/api", "single_token", "yes please", "single_token: must be true or false"},
		"a list for a boolean":              {"roles/new", "dedicated", []any{true}, "dedicated: must be true or false"},
		"a boolean for a number":            {"roles/new", "max_leases", true, "max_leases: must be a whole number"},
		"a word for a number":               {"roles/new", "max_leases", "many", "max_leases: must be a whole number"},
		"a boolean for a duration":          {"roles/new", "ttl", true, "ttl: must be a duration"},
		"a number for a credential":         {"roles/new", "config", float64(7), "config: must be a string"},
		"a number for a kind of key":        {"keypair/new", "key_type", float64(2048), "key_type: must be a string"},
		"a boolean for a client to be sent": {"keypair/new/activate", "client_id", false, "client_id: must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				before, calls := e.Dump(), e.Exchanges()
				for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
					if op == logical.PatchOperation && (strings.HasPrefix(bad.path, "keypair/") || strings.HasPrefix(name, "null")) {
						continue
					}
					_, status, message := e.Request(op, bad.path, map[string]any{bad.field: bad.value})
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, message, bad.says)
				}
				assert.Equal(t, before, e.Dump(), "nothing is stored")
				assert.Equal(t, calls, e.Exchanges())
			})
		})
	}
}

func TestANameInAMapIsGivenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for _, field := range []string{"token_params", "preset_params"} {
			for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
				_, status, message := e.Request(op, "config/oauth2/api", map[string]any{field: []any{"resource=a", "audience=c", "resource=b"}})
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, field+`: duplicate name "resource"`)
			}
		}
		e.Write("config/oauth2/api", map[string]any{"token_params": []any{"resource=a=b", "audience=c"}, "verify": false})
		assert.Equal(t, map[string]string{"resource": "a=b", "audience": "c"}, e.Read("config/oauth2/api").Data["token_params"])
	})
}

func TestAWrittenMapTakesTheStoredOnesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		write := func(op logical.Operation, value any) map[string]any {
			_, status, message := e.Request(op, "config/oauth2/api", map[string]any{"token_params": value, "verify": false})
			require.Equal(t, http.StatusOK, status, message)
			raw, err := json.Marshal(e.Read("config/oauth2/api").Data["token_params"])
			require.NoError(t, err)
			var stored map[string]any
			require.NoError(t, json.Unmarshal(raw, &stored))
			return stored
		}
		assert.Equal(t, map[string]any{"audience": "a"}, write(logical.UpdateOperation, "audience=a"))
		assert.Equal(t, map[string]any{"resource": "b"}, write(logical.UpdateOperation, "resource=b"))
		assert.Equal(t, map[string]any{"resource": "b"}, write(logical.UpdateOperation, map[string]any{"resource": "b"}))

		assert.Equal(t, map[string]any{"resource": "b", "audience": "c"}, write(logical.PatchOperation, "audience=c"), "a patch merges")
		assert.Equal(t, map[string]any{"resource": "d", "audience": "c"}, write(logical.PatchOperation, map[string]any{"resource": "d"}))
		assert.Equal(t, map[string]any{"audience": "c"}, write(logical.PatchOperation, map[string]any{"resource": nil}), "null removes a name")
		assert.Nil(t, write(logical.PatchOperation, nil), "null clears the field")
		write(logical.UpdateOperation, "resource=b")
		assert.Nil(t, write(logical.UpdateOperation, ""))
	})
}

func TestParametersOfAPresetCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		zoom := map[string]any{"preset": "zoom", "preset_params": "account_id=abc", "client_id": "id", "client_secret": "s", "verify": false}
		e.Write("config/oauth2/meetings", zoom)
		e.Write("config/oauth2/meetings", map[string]any{"preset": "box", "preset_params": "enterprise_id=7", "client_secret": "s", "verify": false})
		assert.Equal(t, map[string]string{"enterprise_id": "7"}, e.Read("config/oauth2/meetings").Data["preset_params"])
	})
}

func TestNamesInFieldsAreCheckedBeforeAnythingElse(t *testing.T) {
	long := strings.Repeat("a", 100<<10)
	for name, bad := range map[string]struct {
		path, field, value, says string
	}{
		"a path that leads out of it":       {"roles/new", "config", "../../x", `config: "../../x" is not a name; use the name without its path`},
		"a path":                            {"roles/new", "config", "oauth2/api", `config: "oauth2/api" is not a name; use the name without its path`},
		"a line break":                      {"roles/new", "config", "api\nroot", `config: (8 characters, not shown) is not a name`},
		"a hundred kilobytes":               {"roles/new", "config", long, "is longer than a name can be (128 characters)"},
		"a hundred kilobytes of none":       {"roles/new", "config", "/" + long, "is longer than a name can be (128 characters)"},
		"a path to a key pair":              {"config/oauth2/api", "keypair", "../../x", `keypair: "../../x" is not a name`},
		"a hundred kilobytes of a key pair": {"config/oauth2/api", "keypair", long, "is longer than a name can be (128 characters)"},
		"a path to Kensho's key pair":       {"config/kensho/new", "keypair", "../../x", `keypair: "../../x" is not a name`},
		"an unknown field":                  {"roles/new", long, "x", "unknown field [name of "},
		"an unknown grant":                  {"config/oauth2/api", "grant_type", long, "grant_type: "},
		"an unknown preset":                 {"config/oauth2/api", "preset", long, "preset: "},
		"an unknown product":                {"config/kensho/new", "product", long, "product: "},
		"an unknown algorithm":              {"config/oauth2/keys", "signing_algorithm", long, "signing_algorithm: "},
		"an unknown kind of key":            {"keypair/new", "key_type", long, "key_type: "},
		"a scope that is none":              {"config/oauth2/api", "scope", `"` + long, "scope: "},
		"a scope that nobody has":           {"roles/new", "scope", long, "scope: "},
		"an unknown parameter":              {"config/oauth2/api", "preset_params", long + "=x", "preset_params: "},
		"a parameter of another value":      {"config/oauth2/okta", "preset_params", "domain=!" + long, "preset_params: "},
		"an unknown source":                 {"config/oauth2/api", "private_key_source", long, "private_key_source: "},
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
				case bad.path == "config/oauth2/okta":
					data["preset"] = "okta"
				case bad.field == "preset_params":
					data["preset"] = "zoom"
				case bad.field == "product":
					data["refresh_token"] = engine.RefreshToken
				}
				before := e.Dump()
				_, status, message := e.Request(logical.UpdateOperation, bad.path, data)
				assert.Equal(t, http.StatusBadRequest, status)
				require.Less(t, len(message), 800, "what was given is cut")
				assert.Contains(t, message, bad.says)
				assert.Equal(t, before, e.Dump(), "nothing is stored")
			})
		})
	}
}

func TestARefusedWriteTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		name := func(kind string, i int) string { return kind + strconv.Itoa(i) }
		refused := func(i int) {
			for path, data := range map[string]map[string]any{
				"roles/" + name("role", i):              {"config": name("of", i)},
				"roles/" + name("scoped", i):            {"config": "api", "scope": "of-nobody"},
				"config/kensho/" + name("a", i):         {"refresh_token": "of-nobody"},
				"config/oauth2/" + name("b", i):         {"client_id": "x"},
				"config/kensho/" + name("c", i):         {"client_id": "x", "private_key_source": "generated"},
				"keypair/" + name("k", i):               {"key_type": "none"},
				"keypair/" + name("n", i) + "/activate": {},
				"refresh/" + name("r", i):               {},
			} {
				_, status, _ := e.Request(logical.UpdateOperation, path, data)
				require.Equal(t, http.StatusBadRequest, status, path)
			}
			for _, path := range []string{"creds/" + name("d", i), "token/" + name("d", i), "status/" + name("d", i)} {
				_, status, _ := e.Request(logical.ReadOperation, path, nil)
				require.GreaterOrEqual(t, status, 400, path)
			}
		}
		before := tokenbroker.NamesInMemory(e.Backend)
		for i := range 3 {
			refused(i)
		}
		e.Write("config/kensho/short", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("short")
		_, status, message := e.Request(logical.DeleteOperation, "config/kensho/short", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend))
	})
}

func TestGuarantee2TheRightToANameIsOneWhileItComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: 100 * time.Millisecond})
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				data := map[string]any{"refresh_token": engine.RefreshToken}
				if i%3 == 0 {
					data["refresh_token"] = "of-nobody"
				}
				e.Request(logical.UpdateOperation, "config/kensho/prod", data)
				e.Request(logical.ReadOperation, "creds/prod", nil)
				if i%4 == 0 {
					e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
				}
				e.Request(logical.UpdateOperation, "roles/web", map[string]any{"config": "prod"})
				e.Request(logical.DeleteOperation, "roles/web", nil)
			})
		}
		all.Wait()
		assert.Equal(t, 1, e.Sim.MostInFlight())
		_, status, message := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Zero(t, tokenbroker.NamesInMemory(e.Backend))
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("prod")
	})
}
