package tokenbroker

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathRefresh() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "refresh/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "refresh", OperationSuffix: "token"},
		Fields:       nameField(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.refresh,
				Summary:                     "Forget the cached token and exchange now.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"expire_time": {Type: framework.TypeTime, Description: "When the new token dies, in UTC.", Required: true},
						"provider":    {Type: framework.TypeString, Description: "The provider of the credential.", Required: true},
					}}},
				},
			},
		},
		HelpSynopsis:    "Forget the cached token of a credential, and those of its roles, and exchange now.",
		HelpDescription: refreshHelpDescription,
	}}
}

// nameField is the field of a path that only has a name.
func nameField() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeNameString,
			Description:  "The name of a credential.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
	}
}

func (b *backend) refresh(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	status, err := b.broker.Refresh(ctx, req.Storage, name)
	if err != nil {
		return noCredential(ctx, req.Storage, name, err)
	}
	return &logical.Response{Data: map[string]any{
		"expire_time": stamp(status.ExpireTime),
		"provider":    status.Provider,
	}}, nil
}

const refreshHelpDescription = `
For a token that has leaked, or that the vendor has revoked. Readers get the new
token from now on; leases on the old one run on. The vendor goes on taking it until
it dies, unless there is a revocation endpoint, where it is revoked; one that could
not be is tried again by the next refresh.

It also makes an attempt at once where the engine is leaving a vendor alone who was
unavailable, or has rejected the credential.
`
