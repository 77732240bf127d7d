package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestPairsThatAreNoneAreRefusedWithTheRightForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for _, field := range []string{"preset_params", "token_params"} {
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
					assert.NotContains(t, message, "canary", "it may be a secret in the wrong field")
				}
			}
		}
		for _, value := range []any{"audience=a", []any{"audience=a", "b=c=d"}, map[string]any{"audience": "a"}, ""} {
			e.Write("config/oauth2/api", map[string]any{"token_params": value, "verify": false})
		}
	})
}
