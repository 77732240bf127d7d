package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

const accessTokenType = "access_token"

func (b *backend) pathCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "creds/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "generate", OperationSuffix: "credentials"},
		Fields:       readFields(),
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
		HelpSynopsis:    "Read an access token by the name of a role or of a credential.",
		HelpDescription: credsHelpDescription,
	}}
}

// readFields are what a reader of a token may say.
func readFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeNameString,
			Description:  "The name of a role or of a credential.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"min_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the token must be good for at least, or it is exchanged for a fresher one, if that can help. A role's own min_ttl holds where it is longer.",
			Query:        true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Minimum TTL"},
		},
	}
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
	// Vault would cut the lease to the mount's maximum too, with a warning on each
	// read that tells the reader nothing.
	reading, longest, err := b.read(ctx, req, d, limit{b.System().MaxLeaseTTL(), "the mount's maximum lease TTL"})
	name := d.Get("name").(string)
	if err != nil {
		return failure(name, err)
	}
	resp := b.Secret(accessTokenType).Response(tokenData(reading), map[string]any{"name": name})
	resp.Secret.TTL = min(reading.TTL, longest)
	addWarnings(resp, reading.Warnings)
	return resp, nil
}

// A limit is how long a reader may go by one reading at the most, and by what.
type limit struct {
	ttl time.Duration
	by  string
}

// read reads the token that a name stands for, and says how long the reader may go by
// it at the most, whatever the token.
func (b *backend) read(ctx context.Context, req *logical.Request, d *framework.FieldData, most limit) (*broker.Reading, time.Duration, error) {
	name := d.Get("name").(string)
	r, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, 0, err
	}
	if ttl := r.TTL.Duration(); ttl > 0 && ttl < most.ttl {
		most = limit{ttl, "the role's ttl"}
	}
	minTTL := max(r.MinTTL.Duration(), time.Duration(d.Get("min_ttl").(int))*time.Second)
	// No token makes a reading last longer than that.
	reading, err := b.broker.Read(ctx, req.Storage, r.Config, broker.Wish{Scope: r.scope, MinTTL: min(minTTL, most.ttl)})
	var invalid *provider.Error
	switch {
	case errors.As(err, &invalid) && invalid.Kind == provider.Invalid && r.scope != "":
		return nil, 0, provider.Errorf(provider.Invalid, "%s%s: %s", rolesPrefix, name, invalid.Reason)
	case err != nil:
		return nil, 0, err
	}
	if minTTL > most.ttl {
		cut := *reading // which others have too
		cut.Warnings = append(slices.Clone(reading.Warnings), fmt.Sprintf("min_ttl is %s, and %s is %s", minTTL, most.by, most.ttl))
		reading = &cut
	}
	return reading, most.ttl, nil
}

func addWarnings(resp *logical.Response, warnings []string) {
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
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

With min_ttl, a token that would end before is exchanged for a fresher one first. If
none lives so long, the best one comes with a warning that says what can be had.

Revoking the lease does not end the token at the vendor, since other readers may
hold the same one.
`
