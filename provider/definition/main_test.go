package definition_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// base is a definition to which tests apply changes.
const base = `{
  "title": "Acme",
  "docs": ["https://docs.acme.example/token"],
  "fields": {
    "account": {"description": "the account (acme of https://acme.vendor.example)", "required": true, "pattern": "[a-z0-9-]+"},
    "client_id": {},
    "client_secret": {},
    "scope": {}
  },
  "token_url": "https://{account}.vendor.example/token",
  "auth": "client_secret_post",
  "grants": [
    {"grant_type": "client_credentials", "request": {"form": {"grant_type": "client_credentials", "scope": "{scope}"}}}
  ]
}`

// A change sets the member at a JSON Pointer; nil removes it. "/-" at the end appends to a list.
type change struct {
	at    string
	value any
}

// changed returns the base with changes.
func changed(t *testing.T, changes ...change) []byte {
	t.Helper()
	var root any
	require.NoError(t, json.Unmarshal([]byte(base), &root))
	for _, c := range changes {
		text, err := json.Marshal(c.value) // a copy, as later changes may be to parts of it
		require.NoError(t, err)
		var value any
		require.NoError(t, json.Unmarshal(text, &value))
		root = set(t, root, strings.Split(strings.TrimPrefix(c.at, "/"), "/"), value)
	}
	text, err := json.Marshal(root)
	require.NoError(t, err)
	return text
}

func set(t *testing.T, in any, path []string, value any) any {
	t.Helper()
	if len(path) == 0 {
		return value
	}
	name := strings.NewReplacer("~1", "/", "~0", "~").Replace(path[0])
	switch in := in.(type) {
	case []any:
		if name == "-" {
			return append(in, set(t, nil, path[1:], value))
		}
		i, err := strconv.Atoi(name)
		require.NoError(t, err)
		in[i] = set(t, in[i], path[1:], value)
		return in
	case map[string]any:
		if next := set(t, in[name], path[1:], value); next != nil {
			in[name] = next
		} else {
			delete(in, name)
		}
		return in
	}
	return map[string]any{name: set(t, nil, path[1:], value)}
}

// parsed returns the provider of the base with changes.
func parsed(t *testing.T, changes ...change) *definition.Provider {
	t.Helper()
	return parsedText(t, string(changed(t, changes...)))
}

func parsedText(t *testing.T, text string) *definition.Provider {
	t.Helper()
	d, err := definition.Parse("acme", []byte(text))
	require.NoError(t, err)
	return definition.NewProvider(d)
}

type object = map[string]any
