package tokenbroker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
)

func (b *backend) pathStatus() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      "status/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Fields: map[string]*framework.FieldSchema{
				"after": {
					Type: framework.TypeString, Query: true, DisplayAttrs: &framework.DisplayAttributes{Name: "After"},
					Description: "Only names that sort after this one, such as the last name of the page before.",
				},
				"limit": {
					Type: framework.TypeInt, Query: true, DisplayAttrs: &framework.DisplayAttributes{Name: "Limit"},
					Description: "Maximum number of names. Default: 0, for all.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.statusList,
					Summary:                     "List the credentials, with their state.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "statuses"},
				},
			},
			HelpSynopsis:    "List the credentials, with their state.",
			HelpDescription: withExample("key_info holds the state, the vendor and the expire_time of the cached token of each name, as in status/<name>. The state of a credential that cannot be used is unusable; status/<name> has the reason. With very many credentials, after and limit return the list in pages, as query parameters of the API or with bao list -after and -limit; vault list has no such options.", "vault list -detailed kensho/status"),
		},
		{
			Pattern:      "status/" + apipath.NamePattern("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Fields:       nameField(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.statusRead,
					Summary:  "Read the status of a credential, without secrets.",
					// Only the active node has state that is not stored yet.
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "status"},
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: statusFields()}},
					},
				},
			},
			HelpSynopsis:    "Read the status of a credential.",
			HelpDescription: withExample(statusHelpDescription, "vault read kensho/status/prod"),
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
		"vendor":                  text(vendorDescription),
		"state":                   text("unused, ok, degraded (the last exchange failed, but reads return a valid token; or the rotation of the secret has failed three times in a row), failed (some reads fail) or consent_required (a person must consent, and reads fail)."),
		"expire_time":             at("When the cached token expires."),
		"last_exchange_time":      at("When the last exchange succeeded."),
		"exchanges":               number("Number of successful exchanges since the credential was written."),
		"consecutive_failures":    number("Number of failed exchanges since the last successful one, without those that concern only the scope of a role or a dedicated role."),
		"last_error":              text("Error of the last failed exchange."),
		"last_error_time":         at("Time of last_error."),
		"next_attempt_time":       at("Earliest time of the next call to the vendor, while the engine is backing off."),
		"credential_expire_time":  at("When the credential expires if it stays unused, if known."),
		"credential_updated_time": at("When a secret of the credential last changed."),
		"description":             text("Purpose and owner of the credential, as the operator set it."),
		"client":                  text("Name of the client at clients/<name> that the credential uses. Omitted if it uses none."),
		"expires":                 at("When the secret expires at the vendor: the date in expires, or by the vendor's rule."),
		"clock_skew":              number("Lower bound of the seconds by which the vendor's clock is ahead of this server's, from the Date header of its last response. The engine ignores a Date that differs by more than 600."),
		"last_revocation_time":    at("When the engine last revoked tokens that refresh/ dropped, if the vendor supports it."),
		"last_revocation_error":   text("Error of that revocation, if it failed."),
		"scopes":                  {Type: framework.TypeMap, Description: "Status of narrower tokens, by scope and the fields that narrow them: expire_time of the token; last_error, last_error_time and next_attempt_time if the vendor rejects the scope; storage_error if storage does not accept the token."},
		"variants":                number("Number of tokens of one reader each, of roles that depend on the reader's identity. Omitted if there are none."),
		"dedicated_roles":         {Type: framework.TypeMap, Description: "Dedicated roles whose last exchange failed with a temporary error, which does not affect other readers, by role: last_error, last_error_time and next_attempt_time."},
		"consent":                 {Type: framework.TypeMap, Description: "A person's consent to the credential, as authorize/<name> returns it, and required: whether a person must consent, or will have to within 14 days. Omitted where no consent is possible."},
		"rotation":                {Type: framework.TypeMap, Description: "Rotation of the secret, or of the key pair or client that the credential uses: last_vault_rotation, last_rotation_by (schedule, or the display name of who asked for it), next_vault_rotation, overdue_since (the first time of the schedule after the last rotation, if it has passed), pending_since (of a new secret that the vendor does not accept yet), former_until (when the former secret is removed at the vendor); consecutive_failures, last_error, last_error_time and next_attempt_time after a failure. Omitted if there is neither a rotation nor a schedule, and for a key pair that storage cannot return."},
		"hosts":                   {Type: framework.TypeMap, Description: "Hosts of the vendor with a limit, and those that are paused or down, by host: the fields of hosts/<host>. Omitted if there are none."},
		"storage_error":           text("Why the result of an exchange, or a new secret, is not in storage yet."),
	}
}

// statusList returns the names of the credentials of a page with their status in brief.
func (b *backend) statusList(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit := d.Get("after").(string), d.Get("limit").(int)
	if limit < 0 {
		return logical.ErrorResponse("limit: must not be negative"), nil
	}
	vendors, err := b.store.VendorNames(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(vendors, func(name, _ string) bool { return name <= after })
	names := sortedKeys(vendors)
	if limit > 0 {
		names = names[:min(limit, len(names))]
	}
	info := map[string]any{}
	for _, name := range names {
		vendor := vendors[name]
		status, err := b.broker.BriefStatus(ctx, req.Storage, name)
		switch {
		case errors.Is(err, broker.ErrUnknown): // deleted meanwhile
			continue
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case storage.IsError(err):
			return nil, err
		case err != nil:
			info[name] = map[string]any{"vendor": vendor, "state": "unusable"}
		default:
			b.store.AddUnsavedRotation(name, status)
			b.store.AddKeypairRotation(ctx, req.Storage, status)
			brief := map[string]any{"vendor": status.Vendor, "state": status.State}
			if !status.ExpireTime.IsZero() {
				brief["expire_time"] = broker.FormatTime(status.ExpireTime)
			}
			info[name] = brief
		}
	}
	return logical.ListResponseWithInfo(sortedKeys(info), info), nil
}

func (b *backend) statusRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	status, err := b.broker.ReadStatus(ctx, req.Storage, name)
	if err != nil {
		return credentialFailure(ctx, req.Storage, name, err)
	}
	b.store.AddUnsavedRotation(name, status)
	b.store.AddKeypairRotation(ctx, req.Storage, status)
	data := statusData(status)
	if hosts := b.hostsData(status.URLs); len(hosts) > 0 {
		data["hosts"] = hosts
	}
	if status.CanConsent {
		c, err := b.store.ReadConsent(ctx, req.Storage, name)
		if err != nil {
			return nil, err
		}
		consent := map[string]any{}
		if c.State != "" {
			consent = consentData(c)
		}
		if c.State == credential.ConsentUnsaved {
			data["storage_error"] = c.Error
			if status.NeedsConsent { // nobody has to consent again
				data["state"], status.NeedsConsent = "failed", false
			}
		}
		consent["required"] = status.NeedsConsent
		data["consent"] = consent
	}
	return &logical.Response{Data: data}, nil
}

func statusData(s *broker.Status) map[string]any {
	data := map[string]any{
		"vendor":               s.Vendor,
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
		"next_attempt_time":       broker.RoundUp(s.Failure.NextAttempt),
		"credential_expire_time":  s.CredentialExpireTime,
		"credential_updated_time": s.CredentialWriteTime,
		"expires":                 s.SecretExpireTime,
	} {
		if !t.IsZero() {
			data[field] = broker.FormatTime(t)
		}
	}
	for field, text := range map[string]string{"description": s.Description, "client": s.Client} {
		if text != "" {
			data[field] = text
		}
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
	if s.Variants > 0 {
		data["variants"] = s.Variants
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
	if s.Rotation != nil {
		data["rotation"] = rotationData(s.Rotation)
	}
	if s.StorageError != nil {
		data["storage_error"] = s.StorageError.Error()
	}
	return data
}

func rotationData(r *broker.RotationStatus) map[string]any {
	data := map[string]any{}
	for field, t := range map[string]time.Time{
		"last_vault_rotation": r.LastTime,
		"next_vault_rotation": r.NextTime,
		"pending_since":       r.PendingSince,
		"former_until":        r.FormerUntil,
		"last_error_time":     r.ErrorTime,
		"next_attempt_time":   broker.RoundUp(r.NextAttempt),
	} {
		if !t.IsZero() {
			data[field] = broker.FormatTime(t)
		}
	}
	if !r.OverdueSince.IsZero() && time.Now().After(r.OverdueSince) {
		data["overdue_since"] = broker.FormatTime(r.OverdueSince)
	}
	if !r.LastTime.IsZero() {
		data["last_rotation_by"] = cmp.Or(r.LastBy, "schedule")
	}
	if r.Failures > 0 {
		data["consecutive_failures"], data["last_error"] = r.Failures, r.Error
	}
	return data
}

func scopeData(s broker.ScopeStatus) map[string]any {
	data := map[string]any{}
	if !s.ExpireTime.IsZero() {
		data["expire_time"] = broker.FormatTime(s.ExpireTime)
	}
	if s.Failure.Count > 0 {
		maps.Copy(data, failureData(s.Failure))
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
		"next_attempt_time": broker.FormatNext(f.NextAttempt),
	}
}

const statusHelpDescription = `
Reading a status never calls the vendor. If the state is failed, last_error states the
reason: either wait until next_attempt_time, or write a new credential.
`
