package input_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestAValueOfTheWrongTypeIsRejected(t *testing.T) {
	for name, bad := range map[string]struct {
		path  string
		field string
		value any
		says  string
	}{
		"a number for a string":            {"config/oauth2/api", "client_id", float64(1234567890123456789), "client_id: must be a string"},
		"a boolean for a string":           {"config/oauth2/api", "key_id", true, "key_id: must be a string"},
		"a list for a string":              {"config/oauth2/api", "client_id", []any{"first", "second"}, "client_id: must be a string"},
		"an object for a string":           {"config/oauth2/api", "token_url", map[string]any{"a": "b"}, "token_url: must be a string"},
		"a number in a list":               {"config/oauth2/api", "scope", []any{"read", float64(7)}, "scope: must be a list of strings"},
		"a number for a list":              {"config/oauth2/api", "scope", float64(7), "scope: must be a list of strings"},
		"a boolean in a map":               {"config/oauth2/api", "token_params", map[string]any{"offline": true}, `token_params: the value of "offline" must be a string`},
		"a number in a map":                {"config/oauth2/api", "token_params", map[string]any{"account_id": float64(7)}, `token_params: the value of "account_id" must be a string`},
		"null in a map":                    {"config/oauth2/api", "token_params", map[string]any{"offline": nil}, `token_params: the value of "offline" must be a string`},
		"a number for a map":               {"config/oauth2/api", "token_params", float64(7), "token_params: must be name=value"},
		"not name=value":                   {"config/oauth2/api", "token_params", "acme", "token_params: must be name=value"},
		"JSON on the command line":         {"config/oauth2/api", "token_params", `{"audience":"x"}`, "token_params: must not be a JSON string; use token_params=audience=..."},
		"an object in a list":              {"config/oauth2/api", "token_params", []any{map[string]any{"a": "b"}}, "token_params: must be name=value"},
		"a number for a boolean":           {"config/oauth2/api", "verify", float64(7), "verify: must be true or false"},
		"a word for a boolean":             {"config/oauth2/api", "single_token", "yes please", "single_token: must be true or false"},
		"a list for a boolean":             {"roles/new", "dedicated", []any{true}, "dedicated: must be true or false"},
		"a boolean for a number":           {"roles/new", "max_leases", true, "max_leases: must be a whole number"},
		"a word for a number":              {"roles/new", "max_leases", "many", "max_leases: must be a whole number"},
		"a boolean for a duration":         {"roles/new", "ttl", true, "ttl: must be a duration"},
		"a number for a credential's name": {"roles/new", "config", float64(7), "config: must be a string"},
		"a number for a key type":          {"keypair/new", "key_type", float64(2048), "key_type: must be a string"},
		"a boolean for a client ID":        {"keypair/new/activate", "client_id", false, "client_id: must be a string"},
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

func TestARepeatedMapKeyIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for _, field := range []string{"token_params"} {
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

func TestAWriteReplacesAMapAndAPatchMergesIt(t *testing.T) {
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

func TestMalformedPairsAreRejectedWithTheCorrectForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for _, field := range []string{"token_params"} {
			for _, row := range []struct {
				value any
				says  string
			}{
				{"canary", field + ": must be name=value pairs; use " + field + "=name=value for each pair"},
				{"=canary", field + ": must be name=value pairs"},
				{[]any{"a=b", "canary"}, field + ": must be name=value pairs"},
				{[]any{map[string]any{"a": "canary"}}, field + ": must be name=value pairs"},
				{`{"audience":"canary","resource":"a=b"}`, field + ": must not be a JSON string; use " + field + "=audience=... " + field + "=resource=..., or send"},
				{` {"audience":`, field + ": must not be a JSON string; use " + field + "=name=value for each pair"},
				{[]any{`{"audience":"canary"}`}, field + ": must not be a JSON string; use " + field + "=audience=..."},
			} {
				for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
					_, status, message := e.Request(op, "config/oauth2/api", map[string]any{field: row.value})
					assert.Equal(t, http.StatusBadRequest, status, row.value)
					assert.Contains(t, message, row.says)
					assert.NotContains(t, message, "canary", "the value may be a secret in the wrong field")
				}
			}
		}
		for _, value := range []any{"audience=a", []any{"audience=a", "b=c=d"}, map[string]any{"audience": "a"}, ""} {
			e.Write("config/oauth2/api", map[string]any{"token_params": value, "verify": false})
		}
	})
}
