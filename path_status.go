package tokenbroker

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

func (b *backend) pathStatus() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      "status/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.configList(providers),
					Summary:                     "List the credentials that have a status.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "statuses"},
				},
			},
			HelpSynopsis:    "List the credentials that have a status: all of them.",
			HelpDescription: "Each one is read from status/<name>.",
		},
		{
			Pattern:      "status/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Fields:       nameField(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.statusRead,
					Summary:  "Read how a credential is doing, without any secret.",
					// The active node knows what it has yet to store.
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "status"},
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: statusFields()}},
					},
				},
			},
			HelpSynopsis:    "Read how a credential is doing.",
			HelpDescription: statusHelpDescription,
		},
	}
}

func statusFields() map[string]*framework.FieldSchema {
	text := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description}
	}
	at := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeTime, Description: description}
	}
	number := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeInt, Description: description}
	}
	return map[string]*framework.FieldSchema{
		"provider":                text("The provider of the credential."),
		"state":                   text("unused, ok, degraded (the last exchange failed, but readers get a good token) or failed (some do not)."),
		"expire_time":             at("When the cached token dies."),
		"last_exchange_time":      at("When the last exchange succeeded."),
		"exchanges":               number("How many exchanges have succeeded since the credential was written."),
		"consecutive_failures":    number("How many exchanges have failed since the last that succeeded."),
		"last_error":              text("Why the last exchange failed that did."),
		"last_error_time":         at("When it did."),
		"next_attempt_time":       at("When the vendor may be called again, while it is left alone."),
		"credential_expire_time":  at("When the credential dies if it stays unused, where that is known."),
		"credential_updated_time": at("When a secret of the credential was last written."),
		"description":             text("What the operator says the credential is for."),
		"expires":                 at("When the secret expires at the vendor, as the operator says."),
		"clock_skew":              number("How many seconds the vendor's clock is ahead of this server's, at the least, by the Date of its last answer. Beyond 600 the Date is ignored."),
		"last_revocation_time":    at("When tokens that refresh/ dropped were last revoked at the vendor, where it can."),
		"last_revocation_error":   text("Why that failed."),
		"scopes":                  {Type: framework.TypeMap, Description: "How the narrower scopes of roles are doing: expire_time of each one's token; last_error, last_error_time and next_attempt_time where the vendor rejects it; storage_error where storage does not take its token."},
		"dedicated_roles":         {Type: framework.TypeMap, Description: "The dedicated roles whose last exchange failed for a reason that passes by itself, which counts for no other reader: last_error, last_error_time and next_attempt_time of each."},
		"storage_error":           text("Why something that the vendor answered is not in storage."),
	}
}

func (b *backend) statusRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	status, err := b.broker.Status(ctx, req.Storage, name)
	if err != nil {
		return noCredential(ctx, req.Storage, name, err)
	}
	return &logical.Response{Data: statusData(status)}, nil
}

func statusData(s *broker.Status) map[string]any {
	data := map[string]any{
		"provider":             s.Provider,
		"state":                s.State,
		"exchanges":            s.Exchanges,
		"consecutive_failures": s.Failure.Count,
	}
	if s.ClockSkew != nil {
		data["clock_skew"] = int(s.ClockSkew.Seconds())
	}
	for field, t := range map[string]time.Time{
		"expire_time":             s.ExpireTime,
		"last_exchange_time":      s.ExchangeTime,
		"last_error_time":         s.Failure.Time,
		"next_attempt_time":       roundUp(s.Failure.NextAttempt),
		"credential_expire_time":  s.CredentialExpireTime,
		"credential_updated_time": s.CredentialWriteTime,
		"expires":                 s.SecretExpireTime,
	} {
		if !t.IsZero() {
			data[field] = broker.FormatTime(t)
		}
	}
	if s.Description != "" {
		data["description"] = s.Description
	}
	if s.Revocation != nil {
		data["last_revocation_time"] = broker.FormatTime(s.Revocation.Time)
		if s.Revocation.Reason != "" {
			data["last_revocation_error"] = s.Revocation.Reason
		}
	}
	if s.Failure.Reason != "" {
		data["last_error"] = s.Failure.Reason
	}
	if len(s.Scopes) > 0 {
		scopes := map[string]any{}
		for scope, of := range s.Scopes {
			scopes[scope] = scopeData(of)
		}
		data["scopes"] = scopes
	}
	if len(s.Roles) > 0 {
		roles := map[string]any{}
		for role, failure := range s.Roles {
			roles[role] = failureData(failure)
		}
		data["dedicated_roles"] = roles
	}
	if s.StorageError != nil {
		data["storage_error"] = s.StorageError.Error()
	}
	return data
}

func scopeData(s broker.ScopeStatus) map[string]any {
	data := map[string]any{}
	if !s.ExpireTime.IsZero() {
		data["expire_time"] = broker.FormatTime(s.ExpireTime)
	}
	if s.Refusal.Count > 0 {
		maps.Copy(data, failureData(s.Refusal))
	}
	if s.StorageError != nil {
		data["storage_error"] = s.StorageError.Error()
	}
	return data
}

func failureData(f broker.Failure) map[string]any {
	return map[string]any{
		"last_error":        f.Reason,
		"last_error_time":   broker.FormatTime(f.Time),
		"next_attempt_time": broker.FormatTime(roundUp(f.NextAttempt)),
	}
}

const statusHelpDescription = `
Reading a status never calls the vendor. A credential whose state is failed needs
somebody: last_error says why, and whether it is worth waiting until
next_attempt_time or a new credential has to be written.
`
