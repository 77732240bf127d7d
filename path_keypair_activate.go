package tokenbroker

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathKeypairActivate() *framework.Path {
	return &framework.Path{
		Pattern:      keypairPrefix + framework.GenericNameRegex("name") + "/activate",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			"name": keypairNameField(),
			"client_id": {
				Type:         framework.TypeString,
				Description:  "The client ID that the vendor gave for the pending pair, if it is another. It goes to the credentials that use the key pair.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
			},
			"key_id": {
				Type:         framework.TypeString,
				Description:  "The key_id of the credentials that use the key pair, if they have one and the vendor knows the pending pair by another.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.keypairActivate,
				Summary:                     "Have the pending pair take the active one's place, if the vendor takes it.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "activate", OperationSuffix: "keypair"},
			},
		},
		HelpSynopsis:    "Have the pending pair take the active one's place, if the vendor takes it.",
		HelpDescription: activateHelpDescription,
	}
}

func (b *backend) keypairActivate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	err := b.broker.Exclusive(ctx, func() error {
		return b.activate(ctx, req.Storage, name, d)
	}, keypairPrefix+name)
	if err != nil {
		return failure(name, err)
	}
	return nil, nil
}

const activateHelpDescription = `
Each credential that uses the key pair is exchanged with the pending pair first. Only if
the vendor takes it for all of them does it take the active one's place, for all at once,
and the one that was active is gone; else nothing changes, and the active pair goes on
being used.
`
