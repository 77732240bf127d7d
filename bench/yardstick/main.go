// Command yardstick is a plugin that does nothing: it returns a constant response with a lease
// and one without, of the same shape and size as the engine's, and sends the server no
// requests. The difference between the two is the cost of the engine; the rest is Vault's.
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
		hclog.Default().Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

// lease is about the duration of the engine's lease of a token with a lifetime of a day.
const lease = 24*time.Hour - time.Minute

var (
	leased = map[string]any{
		"access_token": "at-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH",
		"token_type":   "Bearer",
		"expire_time":  "2026-01-02T03:04:05Z",
		"vendor":       "sitecore",
		"scope":        []string{"discover"},
		"http_header":  "Authorization: Bearer at-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH",
	}
	unleased = map[string]any{
		"access_token":        leased["access_token"],
		"token_type":          leased["token_type"],
		"expire_time":         leased["expire_time"],
		"vendor":              leased["vendor"],
		"scope":               leased["scope"],
		"http_header":         leased["http_header"],
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

// read returns a path that uses the framework's deprecated callbacks. With operation handlers,
// the framework asks the server for its replication state on every read, which costs a round
// trip between the two processes.
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
