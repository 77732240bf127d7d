package tokenbroker

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// pathNames returns the path that lists the names whose tokens can be read below prefix.
func (b *backend) pathNames(prefix string, withDedicated bool) *framework.Path {
	return &framework.Path{
		Pattern:      prefix + "?$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "list", OperationSuffix: strings.TrimSuffix(prefix, "/") + "-names"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
					return b.listNames(ctx, req.Storage, withDedicated)
				},
				Summary:                     "List the names of which a token can be read.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
			},
		},
		HelpSynopsis:    "List the names of which a token can be read: roles and credentials.",
		HelpDescription: withExample("key_info holds the vendor of a credential, and the config (the credential) of a role.", "vault list -detailed kensho/"+strings.TrimSuffix(prefix, "/")),
	}
}

// listNames returns the names of all credentials and roles, without those of dedicated roles unless
// withDedicated is set.
func (b *backend) listNames(ctx context.Context, s logical.Storage, withDedicated bool) (*logical.Response, error) {
	vendors, err := b.store.VendorNames(ctx, s)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for name, vendor := range vendors {
		info[name] = map[string]any{"vendor": vendor}
	}
	roles, err := storage.List(ctx, s, storage.RoleKey(""))
	if err != nil {
		return nil, err
	}
	for _, name := range roles {
		switch r, err := getRole(ctx, s, name); {
		case storage.IsError(err):
			return nil, err
		case err != nil || r == nil || r.Dedicated && !withDedicated:
		default:
			info[name] = map[string]any{"config": r.Config}
		}
	}
	return logical.ListResponseWithInfo(sortedKeys(info), info), nil
}
