package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

// failure turns an error into Vault's answer to a request about a name.
func failure(name string, err error) (*logical.Response, error) {
	var vendor *provider.Error
	var exchange *broker.ExchangeError
	var verify *credential.VerifyError
	var missing *credential.NotFoundError
	var conflict *credential.ConflictError
	switch {
	case errors.As(err, &missing):
		return nil, logical.CodedError(http.StatusNotFound, missing.Error())
	case errors.As(err, &conflict):
		return nil, logical.CodedError(http.StatusForbidden, conflict.Error())
	case errors.Is(err, errUnknown):
		return logical.ErrorResponse("%q is no role and no credential: write one to roles/%s or config/<provider>/%s", name, name, name), nil
	case errors.Is(err, broker.ErrUnknown):
		return logical.ErrorResponse("%q is no credential: write one to config/<provider>/%s", name, name), nil
	case errors.As(err, &verify) && errors.As(err, &vendor):
		return refused(verify, vendor)
	case errors.As(err, &exchange):
		return failed(exchange)
	case errors.Is(err, broker.ErrShared):
		return nil, logical.CodedError(http.StatusBadGateway, err.Error())
	case errors.Is(err, broker.ErrBusy):
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("%q is still busy with what was asked before; try again", name))
	case errors.Is(err, broker.ErrClosed):
		return nil, logical.CodedError(http.StatusServiceUnavailable, err.Error())
	case errors.As(err, &vendor):
		return unexchanged(vendor)
	}
	return nil, err
}

// unexchanged answers a request that failed for what the vendor was asked beside an exchange,
// such as its metadata, or for bad input, which it was not asked about at all.
func unexchanged(e *provider.Error) (*logical.Response, error) {
	switch e.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, "the vendor is unavailable: "+e.Reason)
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, "the vendor's answer is unusable: "+e.Reason)
	}
	return logical.ErrorResponse(e.Reason), nil
}

// noCredential answers a request about a credential that gave the name of a role.
func noCredential(ctx context.Context, s logical.Storage, name string, err error) (*logical.Response, error) {
	if errors.Is(err, broker.ErrUnknown) {
		if r, _ := getRole(ctx, s, name); r != nil {
			return logical.ErrorResponse("%q is a role: give the name of its credential, %s", name, provider.Quote(r.Config)), nil
		}
	}
	return failure(name, err)
}

// refused answers a write whose verification failed. Storing the credential unchecked is a way
// out of an outage only: whatever else has failed may be a wrong field.
func refused(v *credential.VerifyError, e *provider.Error) (*logical.Response, error) {
	outcome := v.Outcome
	if e.Outage() {
		outcome = v.InOutage
	}
	switch e.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("the vendor cannot be asked about the credential: %s; %s", e.Reason, outcome))
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the vendor's answer about the credential is unusable: %s; %s", e.Reason, outcome))
	case provider.Expired:
		return logical.ErrorResponse("the credential has expired: %s; %s", e.Reason, v.Outcome), nil
	default:
		return logical.ErrorResponse("the vendor rejected the credential: %s; %s", e.Reason, v.Outcome), nil
	}
}

// failed answers a read for which there is no token.
func failed(e *broker.ExchangeError) (*logical.Response, error) {
	path := credential.Path(e.Provider, e.Name)
	next := broker.FormatTime(roundUp(e.NextAttempt))
	switch e.Err.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("the vendor is unavailable and no good token is left: %s; next attempt at %s", e.Err.Reason, next))
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the vendor's answer is unusable: %s; next attempt at %s", e.Err.Reason, next))
	case provider.Expired:
		return logical.ErrorResponse("the credential has expired: %s; write a new one to %s", e.Err.Reason, path), nil
	}
	if e.Err.Widened {
		return logical.ErrorResponse("%s: the role's scope is %.100q", e.Err.Reason, e.Scope), nil
	}
	if e.Scope != "" && e.Err.MayBeScope {
		return logical.ErrorResponse("the vendor rejected the scope %s, or the credential: %s; give the role a scope that the vendor grants, or write a new credential to %s", provider.Quote(e.Scope), e.Err.Reason, path), nil
	}
	return logical.ErrorResponse("the vendor rejected the credential: %s; write a new one to %s", e.Err.Reason, path), nil
}

// roundUp returns the next whole second, for times before which a caller must not try again. It
// keeps the zero time.
func roundUp(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(time.Second - 1).Truncate(time.Second)
}
