package tokenbroker_test

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestADirectReadIsAnsweredAsTheFrameworkRoutesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("config/sitecore/a@b.c+d-e", map[string]any{"api_key": engine.APIKey})
		e.Write("roles/brief", map[string]any{"config": "prod", "ttl": "5m"})
		e.Write("roles/long", map[string]any{"config": "prod", "min_ttl": "59m"})
		engine.Until(0, 50, 0) // some tokens are renewed, and prod's is too short for the role
		for _, family := range []string{"creds/", "token/"} {
			for _, name := range []string{"prod", "a@b.c+d-e", "brief", "long", "unknown", "x"} {
				path := family + name
				request := func() *logical.Request {
					return &logical.Request{Operation: logical.ReadOperation, Path: path, MountPoint: engine.MountPoint, Storage: e.Storage}
				}
				require.True(t, tokenbroker.IsDirect(e.Backend, request()), path)
				_, _ = e.Backend.HandleRequest(t.Context(), request()) // exchanges if necessary
				direct, directErr := e.Backend.HandleRequest(t.Context(), request())
				routed, routedErr := tokenbroker.Routed(t.Context(), e.Backend, request())
				assert.Equal(t, routed, direct, path)
				assert.Equal(t, routedErr, directErr, path)
			}
		}
	})
}

func TestOnlyReadsWithoutFieldsAreDirect(t *testing.T) {
	e := engine.New(t)
	for _, request := range []*logical.Request{
		{Operation: logical.ReadOperation, Path: "creds/prod", Data: map[string]any{"min_ttl": "1m"}},
		{Operation: logical.ReadOperation, Path: "token/prod", Data: map[string]any{"unknown": "1"}},
		{Operation: logical.ReadOperation, Path: "creds"},
		{Operation: logical.ReadOperation, Path: "creds/"},
		{Operation: logical.ReadOperation, Path: "creds/prod/"},
		{Operation: logical.ReadOperation, Path: "creds/prod/more"},
		{Operation: logical.ReadOperation, Path: "creds/.prod"},
		{Operation: logical.ReadOperation, Path: "/creds/prod"},
		{Operation: logical.ReadOperation, Path: "status/prod"},
		{Operation: logical.ReadOperation, Path: "config/prod"},
		{Operation: logical.ListOperation, Path: "creds/prod"},
		{Operation: logical.UpdateOperation, Path: "creds/prod"},
		{Operation: logical.DeleteOperation, Path: "token/prod"},
		{Operation: logical.HelpOperation, Path: "token/prod"},
		{Operation: logical.HeaderOperation, Path: "token/prod"},
		{Operation: logical.AliasLookaheadOperation, Path: "token/prod"},
	} {
		assert.False(t, tokenbroker.IsDirect(e.Backend, request), "%s %s %v", request.Operation, request.Path, request.Data)
	}
	// What the input checks reject first.
	_, status, message := e.Request(logical.ReadOperation, "creds/a..b", nil)
	assert.Equal(t, 400, status)
	assert.Contains(t, message, `must not contain ".."`)
}
