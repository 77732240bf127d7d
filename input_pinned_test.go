package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// Vault compares what was sent with a policy's allowed_parameters and denied_parameters
// before the engine could trim it.
func TestWhiteSpaceAroundWhatAPolicyMayPinIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		path, field string
		value       any
		taken       bool
	}{
		"config":                        {"roles/mine", "config", "api ", false},
		"config after a line break":     {"roles/mine", "config", "\napi", false},
		"config after another space":    {"roles/mine", "config", "\u00a0api", false},
		"config as it is":               {"roles/mine", "config", "api", true},
		"scope":                         {"roles/mine", "scope", "read ", false},
		"scope before":                  {"roles/mine", "scope", "\tread", false},
		"scope in a list":               {"roles/mine", "scope", []any{"read", " write"}, false},
		"scopes with blanks in between": {"roles/mine", "scope", "read, write", true},
		"scope as it is":                {"roles/mine", "scope", []any{"read"}, true},
		"no scope":                      {"roles/mine", "scope", "", true},
		"keypair":                       {"config/oauth2/api", "keypair", "prod ", false},
		"keypair of Kensho":             {"config/kensho/new", "keypair", " prod", false},
		"allowed_configs":               {"keypair/prod", "allowed_configs", "api ", false},
		"allowed_configs in a list":     {"keypair/prod", "allowed_configs", []any{" api"}, false},
		"allowed_configs as they are":   {"keypair/prod", "allowed_configs", "api, other", true},
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
					if c.taken {
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
