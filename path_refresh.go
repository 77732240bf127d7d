package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathRefresh() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "refresh/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "refresh", OperationSuffix: "token"},
		Fields:       refreshFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.refresh,
				Summary:                     "Exchange now, and replace the cached tokens.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"expire_time": {Type: framework.TypeTime, Description: "When the new token expires, in UTC.", Required: true},
						"provider":    {Type: framework.TypeString, Description: "The provider of the credential.", Required: true},
					}}},
				},
			},
		},
		HelpSynopsis:    "Exchange a credential now, and replace its cached tokens and those of its roles.",
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

func refreshFields() map[string]*framework.FieldSchema {
	fields := nameField()
	fields["drop"] = &framework.FieldSchema{
		Type:         framework.TypeBool,
		Description:  "Whether to drop the cached tokens before the exchange, and to revoke them where the vendor can: for a leak. If the exchange fails, readers get no token until one succeeds.",
		Default:      false,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Drop first"},
	}
	return fields
}

func (b *backend) refresh(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	status, err := b.broker.Refresh(ctx, req.Storage, name, d.Get("drop").(bool))
	if err != nil {
		var unfinished *broker.UnfinishedError
		if errors.As(err, &unfinished) {
			return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("refresh/%s: %s", name, unfinished))
		}
		var failed *broker.RefreshError
		var exchange *broker.ExchangeError
		if errors.As(err, &failed) && errors.As(err, &exchange) {
			return notRefreshed(failed, exchange)
		}
		var many *broker.TooManyRefreshesError
		if errors.As(err, &many) {
			return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("refresh/%s: %s", name, many))
		}
		return noCredential(ctx, req.Storage, name, err)
	}
	return &logical.Response{Data: map[string]any{
		"expire_time": broker.FormatTime(status.ExpireTime),
		"provider":    status.Provider,
	}}, nil
}

// notRefreshed answers a refresh whose exchange failed: what readers get meanwhile matters
// more than which token there is not.
func notRefreshed(r *broker.RefreshError, e *broker.ExchangeError) (*logical.Response, error) {
	what := "the vendor gives no new token"
	if e.Scope != "" {
		what = fmt.Sprintf("the vendor gives no new token of the scope %s", provider.Quote(e.Scope))
	}
	meanwhile := "there is no valid token"
	switch {
	case r.Dropped:
		meanwhile = "the cached tokens were dropped, as drop=true asks, and reads fail until an exchange succeeds"
	case !r.ExpireTime.IsZero():
		meanwhile = "the cached token stays in use; it expires at " + broker.FormatTime(r.ExpireTime)
	}
	message := fmt.Sprintf("%s: %s; %s; ", what, e.Err.Reason, meanwhile)
	path, next := credential.Path(e.Provider, e.Name), "next attempt at "+broker.FormatTime(roundUp(e.NextAttempt))
	switch e.Err.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, message+next)
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, message+next)
	case provider.Expired:
		return logical.ErrorResponse("%sthe credential has expired: write a new one to %s", message, path), nil
	}
	if e.Err.Widened {
		return logical.ErrorResponse("%sno read of a role with this scope gets a newer token until the vendor grants no more than that", message), nil
	}
	if e.Scope != "" && e.Err.MayBeScope {
		return logical.ErrorResponse("%sthe vendor rejected the scope, or the credential: give the role a scope that the vendor grants, or write a new credential to %s", message, path), nil
	}
	return logical.ErrorResponse("%sthe vendor rejected the credential: write a new one to %s", message, path), nil
}

const refreshHelpDescription = `
Without drop, the cached tokens stay in use until the new ones are stored. If the
exchange fails, readers lose nothing. Use it after the vendor has mended something, or
when a token no longer works: it makes an attempt at once, although the engine is
backing off.

With drop=true, the cached tokens are dropped before the vendor is called, and revoked
where it has a revocation endpoint; a token that cannot be revoked is tried again by the
next refresh. Use it for a token that has leaked, and for nothing else: while the vendor
is unavailable, every read fails. A policy can deny the parameter.

A credential can be refreshed 10 times a minute, and as often with drop=true; further
refreshes are answered with 429.

Either way, no read that starts after a refresh has succeeded gets an older token. Leases
on older tokens run on. The vendor accepts an older token until it expires, unless it was
revoked.
`
