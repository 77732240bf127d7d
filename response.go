package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/subject"
	"vault-plugin-secrets-tokenbroker/provider"
)

// failure returns Vault's response to a request about a name that failed with err.
func failure(name string, err error) (*logical.Response, error) {
	var vendor *provider.Error
	var exchange *broker.ExchangeError
	var verify *credential.VerifyError
	var missing *credential.NotFoundError
	var conflict *credential.ConflictError
	var refused *broker.RefusedError
	var outside *subject.RefusedError
	switch {
	case errors.As(err, &missing):
		return nil, logical.CodedError(http.StatusNotFound, missing.Error())
	case errors.As(err, &conflict):
		return nil, logical.CodedError(http.StatusForbidden, conflict.Error())
	case errors.Is(err, errUnknown):
		return logical.ErrorResponse("no role or credential named %q (list creds/ for the names); create one at %s or %s", name, apipath.Role(name), apipath.Credential("<vendor>", name)), nil
	case errors.Is(err, broker.ErrUnknown):
		return logical.ErrorResponse("no credential named %q (list config/ for the names); create one at %s", name, apipath.Credential("<vendor>", name)), nil
	case errors.As(err, &outside):
		return nil, logical.CodedError(http.StatusForbidden, fmt.Sprintf("%s: %s", apipath.Exchange(name), outside))
	case errors.As(err, &refused):
		return refusedFailure(name, refused.Err)
	case errors.Is(err, broker.ErrTooManyDelegations):
		return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s: %s; retry later", apipath.Exchange(name), err))
	case errors.As(err, &verify) && errors.As(err, &vendor):
		return verifyFailure(verify, vendor)
	case errors.As(err, &exchange):
		return exchangeFailure(exchange)
	case errors.Is(err, broker.ErrShared):
		return nil, logical.CodedError(http.StatusBadGateway, err.Error())
	case errors.Is(err, broker.ErrBusy):
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("%q is busy with another request; try again", name))
	case errors.Is(err, broker.ErrClosed):
		return nil, logical.CodedError(http.StatusServiceUnavailable, err.Error())
	case errors.As(err, &vendor):
		return vendorFailure(vendor)
	}
	return nil, err
}

// refusedFailure returns the response to a caller whose token the vendor did not exchange, or not as asked.
func refusedFailure(name string, e *provider.Error) (*logical.Response, error) {
	if e.Widened {
		return logical.ErrorResponse("%s: %s", apipath.Exchange(name), e.Reason), nil
	}
	return logical.ErrorResponse("%s: the vendor refused the exchange of the caller's token: %s", apipath.Exchange(name), e.Reason), nil
}

// isCallersError reports whether an exchange failed because of the caller's token.
func isCallersError(err error) bool {
	var refused *broker.RefusedError
	var outside *subject.RefusedError
	return errors.As(err, &refused) || errors.As(err, &outside) || errors.Is(err, broker.ErrTooManyDelegations)
}

// vendorFailure returns the response for an error outside an exchange: bad input, or a failed request
// for something else, such as the vendor's metadata.
func vendorFailure(e *provider.Error) (*logical.Response, error) {
	switch e.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, "the vendor is unavailable: "+e.Reason)
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, "invalid response from the vendor: "+e.Reason)
	}
	return logical.ErrorResponse(e.Reason), nil
}

// credentialFailure is failure for paths that take only the name of a credential. It explains when
// the name is that of a role.
func credentialFailure(ctx context.Context, s logical.Storage, name string, err error) (*logical.Response, error) {
	if errors.Is(err, broker.ErrUnknown) {
		if r, _ := getRole(ctx, s, name); r != nil {
			return logical.ErrorResponse("%q is a role; use the name of its credential, %s", name, provider.Quote(r.Config)), nil
		}
	}
	return failure(name, err)
}

// verifyFailure returns the response to a write whose verification failed. It suggests verify=false
// only in an outage, as any other failure may come from a wrong field.
func verifyFailure(v *credential.VerifyError, e *provider.Error) (*logical.Response, error) {
	outcome := v.Outcome
	if e.Outage() {
		outcome = v.InOutage
	}
	switch e.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("cannot verify the credential: the vendor is unavailable: %s; %s", e.Reason, outcome))
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("cannot verify the credential: invalid response from the vendor: %s; %s", e.Reason, outcome))
	case provider.Expired:
		return logical.ErrorResponse("the credential has expired: %s; %s", e.Reason, v.Outcome), nil
	case provider.Invalid: // the vendor was not called
		return logical.ErrorResponse("%s; %s", e.Reason, v.Outcome), nil
	default:
		return logical.ErrorResponse("the vendor rejected the credential: %s; %s", e.Reason, v.Outcome), nil
	}
}

// fieldsIn returns the names of the fields in the key of a narrowing; "" if there are none.
func fieldsIn(key string) string {
	return strings.Join(sortedKeys(provider.ParseNarrowing(key).Fields), ", ")
}

// exchangeFailure returns the response to a read for which there is no valid token.
func exchangeFailure(e *broker.ExchangeError) (*logical.Response, error) {
	path := e.Path
	next := broker.FormatNext(e.NextAttempt)
	if e.Err.NotSent {
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("there is no valid token: %s; next attempt at %s", e.Err.Reason, next))
	}
	switch e.Err.Kind {
	case provider.Unavailable:
		return nil, logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("the vendor is unavailable and there is no valid token: %s; next attempt at %s", e.Err.Reason, next))
	case provider.InvalidResponse:
		return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("invalid response from the vendor: %s; next attempt at %s", e.Err.Reason, next))
	case provider.Expired:
		return logical.ErrorResponse("the credential has expired: %s; write a new one to %s", e.Err.Reason, path), nil
	}
	fields := fieldsIn(e.Scope)
	if e.Err.Widened && fields != "" {
		return logical.ErrorResponse("%s", e.Err.Reason), nil
	}
	if e.Err.Widened {
		return logical.ErrorResponse("%s (the role's scope is %.100q)", e.Err.Reason, provider.ShownKey(e.Scope)), nil
	}
	if e.Scope != "" && e.Err.MayBeScope && fields != "" {
		return logical.ErrorResponse("the vendor rejected a narrower token (by %s), or the credential: %s; change what the role or the read asks for, or write a new credential to %s", fields, e.Err.Reason, path), nil
	}
	if e.Scope != "" && e.Err.MayBeScope {
		return logical.ErrorResponse("the vendor rejected the scope %s, or the credential: %s; give the role a scope that the vendor grants, or write a new credential to %s", provider.Quote(provider.ShownKey(e.Scope)), e.Err.Reason, path), nil
	}
	if e.IsVariant {
		return logical.ErrorResponse("the vendor rejected the token for this reader: %s; check what the role's templates yield, and what %s may do", e.Err.Reason, path), nil
	}
	if e.Err.Code == provider.CodeConsentRequired {
		return logical.ErrorResponse("%s: %s", path, e.Err.Reason), nil
	}
	return logical.ErrorResponse("the vendor rejected the credential: %s; write a new one to %s", e.Err.Reason, path), nil
}
