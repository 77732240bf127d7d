package tokenbroker

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
)

func (b *backend) pathToken() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "token/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "read", OperationSuffix: "token"},
		Fields:       readFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.tokenRead,
				Summary:                     "Read an access token without a lease, and when to read again.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: staticTokenFields()}},
				},
			},
		},
		HelpSynopsis:    "Read an access token without a lease, by the name of a role or of a credential.",
		HelpDescription: tokenHelpDescription,
	}}
}

// staticTokenFields are those of a leased token, and what readers go by of a secret
// that changes without a lease: those that the database engine's static credentials
// have. Vault Agent looks for the first two, the Vault Secrets Operator for all three.
func staticTokenFields() map[string]*framework.FieldSchema {
	fields := tokenFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"ttl": {
			Type:        framework.TypeInt,
			Description: "In how many seconds to read again: by then there is a fresher token.",
			Required:    true,
		},
		"rotation_period": {
			Type:        framework.TypeInt,
			Description: "How many seconds the token lives, from its issue to its death.",
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
	reading, err := b.read(ctx, req, d, limit{ttl: credential.MaxDuration})
	if err != nil {
		return failure(nameIn(d), err)
	}
	resp := &logical.Response{Data: tokenData(reading.IssuedToken)}
	resp.Data["ttl"] = int64(min(reading.Reread, reading.longest).Seconds())
	resp.Data["rotation_period"] = int64(max(1, reading.ExpireTime.Sub(reading.IssueTime).Seconds()))
	resp.Data["last_vault_rotation"] = broker.FormatTime(reading.IssueTime)
	addWarnings(resp, reading.Warnings)
	return resp, nil
}

const tokenHelpDescription = `
The same token as creds/<name>, and nothing that Vault has to write or revoke: for
many readers, and for those who read often. Nobody can see who holds it, and it dies
when it dies.

ttl and rotation_period are what Vault Agent goes by: it reads again a second after
ttl seconds, when there is a fresher token.
`
