package tokenbroker

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
)

func (b *backend) pathToken() []*framework.Path {
	return []*framework.Path{b.pathNames("token/", false), {
		Pattern:      "token/" + apipath.NamePattern("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "read", OperationSuffix: "token"},
		Fields:       readFields(),

		TakesArbitraryInput: true, // the fields that narrow a token
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.tokenRead,
				Summary:                     "Read an access token without a lease, and the time until the next read.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: staticTokenFields()}},
				},
			},
		},
		HelpSynopsis:    "Read an access token of a role or a credential, without a lease.",
		HelpDescription: withExample(tokenHelpDescription, "vault read kensho/token/prod"),
	}}
}

// staticTokenFields returns tokenFields and the fields by which clients of Vault know when to read a
// secret without a lease again. The static credentials of the database engine have the same fields.
// Vault Agent uses ttl and rotation_period, the Vault Secrets Operator all three.
func staticTokenFields() map[string]*framework.FieldSchema {
	fields := tokenFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"ttl": {
			Type:        framework.TypeInt,
			Description: "Seconds until the next read. By then a newer token is available.",
			Required:    true,
		},
		"rotation_period": {
			Type:        framework.TypeInt,
			Description: "Lifetime of the token from issue to expiry, in seconds.",
			Required:    true,
		},
		"last_vault_rotation": {
			Type:        framework.TypeTime,
			Description: "When the token was issued, in UTC.",
			Required:    true,
		},
	})
	return fields
}

func (b *backend) tokenRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	result, err := b.read(ctx, req, d, limit{ttl: credential.MaxDuration})
	if err != nil {
		return failure(nameIn(d), err)
	}
	resp := &logical.Response{Data: tokenData(result.IssuedToken, 12)}
	resp.Data["ttl"] = int64(min(result.Reread, result.longest).Seconds())
	resp.Data["rotation_period"] = int64(max(1, result.ExpireTime.Sub(result.IssueTime).Seconds()))
	resp.Data["last_vault_rotation"] = broker.FormatTime(result.IssueTime)
	addWarnings(resp, result.Warnings)
	return resp, nil
}

const tokenHelpDescription = `
token/<name> returns the same token as creds/<name>, but without a lease: Vault stores
and revokes nothing. Use it for many or frequent reads. Without leases, Vault cannot
list who holds a token.

Vault Agent uses ttl and rotation_period: it reads again one second after ttl has
passed, when a newer token is available.
`
