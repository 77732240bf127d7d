package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathRefresh() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "refresh/" + apipath.NamePattern("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "refresh", OperationSuffix: "token"},
		Fields:       refreshFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.refreshWrite,
				Summary:                     "Exchange a credential now and replace its cached tokens.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"expire_time": {Type: framework.TypeTime, Description: "When the new token expires, in UTC. Omitted if the credential has no token of its own."},
						"vendor":      {Type: framework.TypeString, Description: vendorDescription, Required: true},
					}}},
				},
			},
		},
		HelpSynopsis:    "Exchange a credential now and replace its cached tokens, including those of its roles.",
		HelpDescription: withExample(refreshHelpDescription, "vault write -f kensho/refresh/prod"),
	}}
}

// nameField returns the fields of a path that takes only the name of a credential.
func nameField() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeString,
			Description:  "Name of a credential.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
	}
}

func refreshFields() map[string]*framework.FieldSchema {
	fields := nameField()
	fields["drop"] = &framework.FieldSchema{
		Type:         framework.TypeBool,
		Description:  "Whether to drop the cached tokens before the exchange, and to revoke them if the vendor has a revocation endpoint. Use it after a leak. If the exchange fails, reads fail until one succeeds.",
		Default:      false,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Drop first"},
	}
	return fields
}

func (b *backend) refreshWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	drop := d.Get("drop").(bool)
	status, err := b.broker.Refresh(ctx, req.Storage, name, drop)
	var many *broker.TooManyRefreshesError
	switch {
	case drop && !errors.As(err, &many):
		err = errors.Join(err, b.store.DropVariantTokens(ctx, req.Storage, name))
	case err == nil && !drop:
		if err = b.store.TryVariant(ctx, req.Storage, name); err == nil {
			err = b.store.DropVariants(ctx, req.Storage, name, false)
		}
	}
	if err != nil {
		var unfinished *broker.UnfinishedError
		if errors.As(err, &unfinished) {
			return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("%s: %s", apipath.Refresh(name), unfinished))
		}
		var failed *broker.RefreshError
		var exchange *broker.ExchangeError
		if errors.As(err, &failed) && errors.As(err, &exchange) {
			return refreshFailure(failed, exchange)
		}
		if errors.As(err, &many) {
			return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s: %s", apipath.Refresh(name), many))
		}
		return credentialFailure(ctx, req.Storage, name, err)
	}
	data := map[string]any{"vendor": status.Vendor}
	if !status.ExpireTime.IsZero() { // otherwise the credential has no token of its own
		data["expire_time"] = broker.FormatTime(status.ExpireTime)
	}
	return &logical.Response{Data: data}, nil
}

// refreshFailure returns the response to a refresh whose exchange failed. It states what readers get
// in the meantime.
func refreshFailure(r *broker.RefreshError, e *broker.ExchangeError) (*logical.Response, error) {
	what, fields := "the refresh failed", fieldsIn(e.Scope)
	switch {
	case fields != "":
		what = fmt.Sprintf("the refresh of a narrower token (by %s) failed", fields)
	case e.Scope != "":
		what = fmt.Sprintf("the refresh of the scope %s failed", provider.Quote(provider.ShownKey(e.Scope)))
	}
	meanwhile := "there is no valid token"
	switch {
	case r.Dropped:
		meanwhile = "the cached tokens were dropped (drop=true), and reads fail until an exchange succeeds"
	case !r.ExpireTime.IsZero():
		meanwhile = "the cached token stays in use; it expires at " + broker.FormatTime(r.ExpireTime)
	}
	message := fmt.Sprintf("%s: %s; %s; ", what, e.Err.Reason, meanwhile)
	path, next := e.Path, "next attempt at "+broker.FormatNext(e.NextAttempt)
	switch e.Err.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, message+next)
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, message+next)
	case provider.Expired:
		return logical.ErrorResponse("%sthe credential has expired; write a new one to %s", message, path), nil
	}
	if e.Err.Widened && fields != "" {
		return logical.ErrorResponse("%sroles with these fields get no newer token until the vendor issues one for no more than they ask for", message), nil
	}
	if e.Err.Widened {
		return logical.ErrorResponse("%sroles with this scope get no newer token until the vendor grants no further scopes", message), nil
	}
	if e.Scope != "" && e.Err.MayBeScope && fields != "" {
		return logical.ErrorResponse("%sthe vendor rejected what the role asks for, or the credential; change the role, or write a new credential to %s", message, path), nil
	}
	if e.Scope != "" && e.Err.MayBeScope {
		return logical.ErrorResponse("%sthe vendor rejected the scope, or the credential; give the role a scope that the vendor grants, or write a new credential to %s", message, path), nil
	}
	return logical.ErrorResponse("%sthe vendor rejected the credential; write a new one to %s", message, path), nil
}

const refreshHelpDescription = `
Without drop, the cached tokens stay in use until the new ones are stored, also if the
exchange fails. Use a refresh after the vendor has fixed a problem, or when a token no
longer works. It exchanges at once, even while the engine is backing off.

With drop=true, the engine drops the cached tokens before it calls the vendor, and
revokes them if the vendor has a revocation endpoint. The next refresh retries a failed
revocation. Use drop only for a leaked token: while the vendor is unavailable, every
read fails. A policy can deny the parameter.

A credential can be refreshed 10 times a minute, and another 10 times with drop=true.
Further refreshes fail with status 429.

No read that starts after a successful refresh returns an older token. Leases on older
tokens stay valid. The vendor accepts an older token until it expires, unless it was
revoked.
`
