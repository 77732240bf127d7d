package tokenbroker

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

const accessTokenType = "access_token"

func (b *backend) pathCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "creds/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "generate", OperationSuffix: "credentials"},
		Fields:       nameField(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.credsRead,
				Summary:                     "Read an access token, leased for as long as it is good.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: tokenFields()}},
				},
			},
		},
		HelpSynopsis:    "Read an access token of a credential.",
		HelpDescription: credsHelpDescription,
	}}
}

// tokenFields are what a reader gets.
func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"access_token": {
			Type:         framework.TypeString,
			Description:  "The access token.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token", Sensitive: true},
		},
		"token_type": {
			Type:        framework.TypeString,
			Description: `How to send the token; with "Bearer", as Authorization: Bearer <access_token>.`,
			Required:    true,
		},
		"expire_time": {
			Type:        framework.TypeTime,
			Description: "When the token dies, by this server's clock, in UTC. The lease ends a little before.",
			Required:    true,
		},
		"provider": {
			Type:        framework.TypeString,
			Description: "The provider of the credential.",
			Required:    true,
		},
		"scope": {
			Type:        framework.TypeStringSlice,
			Description: "The scopes of the token, where they are known.",
		},
	}
}

// accessToken is the leased secret. It cannot be renewed: a token's life is the
// vendor's to decide, and a reader that comes back gets the next one.
func (b *backend) accessToken() *framework.Secret {
	return &framework.Secret{
		Type:   accessTokenType,
		Fields: tokenFields(),
		Revoke: b.credsRevoke,
	}
}

func (b *backend) credsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	reading, err := b.broker.Read(ctx, req.Storage, name)
	if err != nil {
		return failure(name, err)
	}
	resp := b.Secret(accessTokenType).Response(tokenData(reading), map[string]any{"name": name})
	// Vault would cut the lease to the mount's maximum too, with a warning on each
	// read that tells the reader nothing.
	resp.Secret.TTL = min(reading.TTL, b.System().MaxLeaseTTL())
	if reading.Warning != "" {
		resp.AddWarning(reading.Warning)
	}
	return resp, nil
}

func tokenData(r *broker.Reading) map[string]any {
	data := map[string]any{
		"access_token": r.AccessToken,
		"token_type":   r.TokenType,
		"expire_time":  stamp(r.ExpireTime),
		"provider":     r.Provider,
	}
	if len(r.Scope) > 0 {
		data["scope"] = r.Scope
	}
	return data
}

// credsRevoke ends the lease alone. Other readers have leases on the same token,
// and Vault revokes one whenever the reader's own Vault token ends.
func (b *backend) credsRevoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}

const credsHelpDescription = `
The access token comes from the cache while it is good, and from the vendor
otherwise. Its lease ends before it dies, and cannot be renewed: read again.

Revoking the lease does not end the token at the vendor, since other readers may
hold the same one.
`
