// Command yardstick is a plugin that does nothing: it answers one constant with a lease
// and one without, of the shape and size of the engine's, and asks the server nothing.
// What the engine takes longer is its own doing, and the rest is the server's.
package main

import (
	"context"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	meta := &api.PluginAPIClientMeta{}
	err := meta.FlagSet().Parse(os.Args[1:])
	if err == nil {
		err = plugin.ServeMultiplex(&plugin.ServeOpts{
			BackendFactoryFunc: factory,
			TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
		})
	}
	if err != nil {
		hclog.Default().Error("the plugin shuts down", "error", err)
		os.Exit(1)
	}
}

// lease is about what the engine gives with a token of one day.
const lease = 24*time.Hour - time.Minute

var (
	leased = map[string]any{
		"access_token": "at-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH",
		"token_type":   "Bearer",
		"expire_time":  "2026-01-02T03:04:05Z",
		"provider":     "sitecore",
		"scope":        []string{"discover"},
	}
	unleased = map[string]any{
		"access_token":        leased["access_token"],
		"token_type":          leased["token_type"],
		"expire_time":         leased["expire_time"],
		"provider":            leased["provider"],
		"scope":               leased["scope"],
		"ttl":                 int64(64000),
		"rotation_period":     int64(86400),
		"last_vault_rotation": "2026-01-01T03:04:05Z",
	}
	internal = map[string]any{"name": "c00000"}
)

func factory(ctx context.Context, config *logical.BackendConfig) (logical.Backend, error) {
	secret := &framework.Secret{
		Type: "constant",
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{secret},
		Paths: []*framework.Path{
			read("creds/c00000", func() *logical.Response {
				resp := secret.Response(leased, internal)
				resp.Secret.TTL = lease
				return resp
			}),
			read("token/c00000", func() *logical.Response { return &logical.Response{Data: unleased} }),
		},
	}
	return b, b.Setup(ctx, config)
}

// read is a path in the older of the framework's two forms: in the newer one, the
// framework asks the server how it is replicated on each read, a call from process to
// process and back, which is more than nothing.
func read(path string, answer func() *logical.Response) *framework.Path {
	return &framework.Path{
		Pattern: path,
		Callbacks: map[logical.Operation]framework.OperationFunc{
			logical.ReadOperation: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
				return answer(), nil
			},
		},
	}
}
