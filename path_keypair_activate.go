package tokenbroker

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/credential"
)

func (b *backend) pathKeypairActivate() *framework.Path {
	return &framework.Path{
		Pattern:      "keypair/" + apipath.NamePattern("name") + "/activate",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			"name": keypairNameField(),
			"client_id": {
				Type:         framework.TypeString,
				Description:  "New client ID, if the vendor issued one for the pending pair. It is set on the credentials that use the key pair.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
			},
			"force": {
				Type:         framework.TypeBool,
				Description:  "Whether to activate a pair that has not been published for publish_ahead yet, although no exchange shows whether the vendor has fetched it. The vendor may then reject the tokens that readers get. Not stored.",
				Default:      false,
				DisplayAttrs: &framework.DisplayAttributes{Name: "Force"},
			},
			"key_id": {
				Type:         framework.TypeString,
				Description:  "New key_id, if the vendor assigned one to the pending pair. It is set on the credentials that use the key pair and have a key_id.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.keypairActivate,
				Summary:                     "Replace the active pair with the pending one, if the vendor accepts it.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "activate", OperationSuffix: "keypair"},
			},
		},
		HelpSynopsis:    "Replace the active pair with the pending one, if the vendor accepts it.",
		HelpDescription: withExample(activateHelpDescription, "vault write kensho/keypair/batch/activate client_id=0oa5archive6"),
	}
}

func (b *backend) keypairActivate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	request := credential.ActivationRequest{IsForced: d.Get("force").(bool), By: req.DisplayName}
	for field, value := range map[string]**string{"client_id": &request.ClientID, "key_id": &request.KeyID} {
		if text, given := d.GetOk(field); given {
			*value = new(strings.TrimSpace(text.(string)))
		}
	}
	if err := b.store.Activate(ctx, req.Storage, name, request); err != nil {
		return failure(name, err)
	}
	return nil, nil
}

const activateHelpDescription = `
The engine first exchanges each credential that uses the key pair with the pending pair.
If the vendor accepts all of them, the pending pair replaces the active one for all
credentials at once, and the previously active pair is deleted. Otherwise nothing
changes, and credentials keep using the active pair.

The public key of the previously active pair stays at jwks/<name>, if the key pair is
published, until the vendor no longer accepts what it has signed. While there are 16 of
them, no pair is activated.

If no exchange of a credential reaches the vendor (it signs tokens by itself, or needs a
caller, a role or a person first), nothing shows that the vendor has fetched a published
pair. Such a pair is activated only once it has been published for publish_ahead, or with
force=true.

At least one credential must use the key pair. If the vendor knows only the pending pair
so far, store the credential with verify=false before.
`
