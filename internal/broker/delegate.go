package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// This file exchanges callers' tokens (RFC 8693). Neither the callers' tokens nor the issued ones are stored;
// storage has only the leases of issued tokens that the vendor can revoke (delegate_lease.go).

// A Delegation is what a caller asks for, and what is checked first.
type Delegation struct {
	Request provider.DelegateRequest

	// Fields are the values of fields that a role sets, besides the scope. IsPersonal is whether they say who the caller
	// is.
	Fields     map[string]any
	IsPersonal bool

	// Verify checks the caller's token before anything is sent; nil checks nothing.
	Verify func(context.Context, *Credential) error
}

// A RefusedError means that the vendor refused a caller's token, or what the caller asked for. It says nothing
// about the credential.
type RefusedError struct{ Err *provider.Error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// ErrTooManyDelegations means that maxDelegations exchanges of callers' tokens already wait for the vendor.
var ErrTooManyDelegations = fmt.Errorf("%d exchanges of callers' tokens wait for the vendor (the maximum)", maxDelegations)

// Delegate exchanges a caller's token for a token of the vendor, or returns the one that the same request has
// yielded before. If the vendor can revoke the token, lease is the storage key for RevokeDelegated; otherwise it
// is "". The errors are ErrUnknown, ErrClosed, ErrPanicked, ErrTooManyDelegations, of type *RefusedError,
// *ExchangeError, *storage.Error and *provider.Error of kind Invalid, and those of Verify.
func (b *Broker) Delegate(ctx context.Context, s logical.Storage, name string, d Delegation) (issued *IssuedToken, lease string, err error) {
	for {
		issued, lease, err = b.delegate(ctx, s, name, d)
		if !errors.Is(err, errSuperseded) { // the token was revoked in the meantime
			break
		}
	}
	if err == nil && ctx.Err() != nil && lease != "" { // Vault creates no lease for a canceled request
		err = errors.Join(ctx.Err(), b.RevokeDelegated(context.WithoutCancel(ctx), s, name, lease))
	}
	return issued, lease, err
}

func (b *Broker) delegate(ctx context.Context, s logical.Storage, name string, d Delegation) (issued *IssuedToken, lease string, err error) {
	if isClosed(b.closed) {
		return nil, "", ErrClosed
	}
	r, snap, err := b.loaded(ctx, s, name)
	if err != nil {
		return nil, "", err
	}
	if len(d.Fields) > 0 {
		if snap.credential, err = snap.credential.withFields(d.Fields); err != nil {
			return nil, "", err
		}
	}
	if provider.DelegationOf(snap.credential.Vendor) == nil {
		return nil, "", provider.Errorf(provider.Invalid, "%s cannot exchange a caller's token: the vendor has no such exchange, or the client has no secret or key to authenticate with", snap.credential.Path)
	}
	if d.Verify != nil {
		if err := d.Verify(provider.WithSecrets(snap.redacting(ctx), d.Request.Secrets()...), snap.credential); err != nil {
			return nil, "", err
		}
	}
	if asked := provider.JoinScope(d.Request.Scope); asked == snap.credential.Scope {
		d.Request.Scope = nil
	}
	key := newDelegationKey(snap.credential, d.Request)
	issued, err = b.delegatedToken(ctx, r, snap, d, key)
	if err != nil {
		return nil, "", err
	}
	if snap.canRevoke(ctx) {
		if lease, err = b.putDelegated(ctx, s, r, snap, key, issued.Token); err != nil {
			return nil, "", err
		}
		now := time.Now()
		if issued.TTL = leaseTTL(issued.Token, now); issued.TTL == 0 { // the write was slow
			return nil, "", errors.Join(snap.of(ownScope).expiredMeanwhile(now), b.RevokeDelegated(ctx, s, name, lease))
		}
		return issued, lease, nil
	}
	issued.Warnings = append(issued.Warnings, fmt.Sprintf("the vendor cannot revoke this token: it stays valid until %s, also if its lease is revoked before", FormatTime(issued.ExpireTime)))
	return issued, "", nil
}

// loaded returns a record and its snapshot, without recording a read.
func (b *Broker) loaded(ctx context.Context, s logical.Storage, name string) (*record, snapshot, error) {
	for {
		key := name
		if r := b.cached(name); r != nil {
			snap := r.get()
			switch snap.presence {
			case loaded:
				return r, snap, nil
			case absent:
			default:
				key = fmt.Sprintf("%s/%d", name, snap.epoch)
			}
		}
		if err := b.loadShared(ctx, s, key, name); err != nil {
			return nil, snapshot{}, err
		}
	}
}

// canRevoke reports whether the vendor can revoke a token that a caller got.
func (snap snapshot) canRevoke(ctx context.Context) bool {
	revoker, ok := snap.credential.Vendor.(provider.Revoker)
	return ok && revoker.Revocable(snap.redacting(ctx)) == nil
}

// delegatedToken returns the cached token of a request, or a new one that concurrent callers share.
func (b *Broker) delegatedToken(ctx context.Context, r *record, snap snapshot, d Delegation, key delegationKey) (*IssuedToken, error) {
	request := d.Request
	ds, now := r.delegationsOf(snap.epoch), time.Now()
	cached, until := ds.token(key, now)
	if cached != nil && !isRenewalDue(cached.At(now), now) {
		return delegatedTo(snap, request, *cached, Cached, now), nil
	}
	if refused := ds.refusal(key, now); refused != nil {
		return nil, refused
	}
	fallBack := func(err error) (*IssuedToken, error) {
		if now := time.Now(); cached != nil && leaseTTL(cached.At(now), now) > 0 && (until.IsZero() || now.Before(until)) { // guarantee 4
			issued := delegatedTo(snap, request, *cached, Stale, now)
			issued.Warnings = append(issued.Warnings, fmt.Sprintf("the vendor issues no newer token (%s); this one is valid until %s", err, FormatTime(issued.ExpireTime)))
			return issued, nil
		}
		return nil, err
	}
	if err := snap.delegationBackOff(now); err != nil {
		return fallBack(err)
	}
	done := ds.flights.DoChan(string(key[:]), func() (token any, err error) {
		defer func() {
			if recovered := recover(); recovered != nil { // it must not end the process
				token, err = nil, Panicked(b.source.Logger().With("name", r.name), recovered)
			}
		}()
		last := provider.Token{}
		if cached != nil {
			last = *cached
		}
		return b.exchangeDelegated(ctx, r, snap, ds, d, key, last)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case result := <-done:
		if result.Err != nil {
			if isOfCaller(result.Err) {
				return nil, result.Err
			}
			return fallBack(result.Err)
		}
		now := time.Now()
		issued := delegatedTo(snap, request, result.Val.(provider.Token), Exchanged, now)
		if issued == nil {
			return nil, snap.of(ownScope).expiredMeanwhile(now)
		}
		return issued, nil
	}
}

// isOfCaller reports whether an error is about what the caller gave, so that no older token is served.
func isOfCaller(err error) bool {
	var refused *RefusedError
	var invalid *provider.Error
	return errors.As(err, &refused) || errors.As(err, &invalid) && invalid.Kind == provider.Invalid
}

// delegatedTo returns a token for a caller; nil if it can no longer be leased.
func delegatedTo(snap snapshot, request provider.DelegateRequest, t provider.Token, outcome Outcome, now time.Time) *IssuedToken {
	t = t.At(now)
	ttl := leaseTTL(t, now)
	if ttl == 0 {
		return nil
	}
	issued := &IssuedToken{Token: t, Vendor: snap.credential.VendorName, API: snap.credential.API, TTL: ttl, Reread: ttl, Outcome: outcome}
	issued.Warnings = append(scopeWarnings(t, provider.JoinScope(request.Scope)), t.Warnings...)
	if kind := t.Extra[issuedTokenType]; request.RequestedTokenType != "" && kind != "" && kind != request.RequestedTokenType {
		issued.Warnings = append(issued.Warnings, fmt.Sprintf("the vendor issued a token of type %s, and not of the requested type", kind))
	}
	return issued
}

// issuedTokenType is the further member of an answer with the type of the token (RFC 8693 §2.2.1).
const issuedTokenType = "issued_token_type"

// exchangeDelegated calls the vendor once for a caller, and caches the token. last is the token that the same
// request has yielded before; the zero Token if there is none.
func (b *Broker) exchangeDelegated(ctx context.Context, r *record, snap snapshot, ds *delegations, d Delegation, key delegationKey, last provider.Token) (provider.Token, error) {
	request := d.Request
	ctx, cancel := exchangeContext(ctx) // others wait for the result
	defer cancel()
	done, err := ds.begin(ctx)
	if err != nil {
		return provider.Token{}, err
	}
	defer done()
	ctx = pacing.With(provider.WithSecrets(snap.redacting(ctx), request.Secrets()...), pacing.NewAdmission(BaseName(r.name), pacing.Awaited))
	x := Exchange{Name: r.name, Vendor: snap.credential.VendorName, Scope: provider.JoinScope(request.Scope), IsDelegated: true}
	began := time.Now()
	answer, failure := snap.requestDelegated(ctx, ds, request)
	x.Duration = time.Since(began)
	var token provider.Token
	// Otherwise it may be an outage, or concern the credential. An answer without a usable token may be due to what
	// this caller gave.
	isOfVendor := failure != nil && failure.Kind != provider.InvalidResponse
	if failure == nil {
		token, failure = snap.readDelegated(answer, request, last)
		if failure != nil && answer.AccessToken != "" && snap.canRevoke(ctx) {
			b.revokeUndelivered(ctx, snap.of(ownScope), answer.AccessToken)
		}
	}
	if d.IsPersonal {
		failure = snap.credential.unnamed(failure)
	}
	if x.Err = failure; failure == nil {
		token.Seen, x.ExpireTime = began, token.ExpireTime
		ds.put(key, token, request)
		r.noteDelegated(snap.epoch, nil, time.Now())
		b.reportDelegated(x)
		return token, nil
	}
	return provider.Token{}, b.delegationFailed(r, snap, ds, key, x, isOfVendor)
}

// requestDelegated sends the request, with the client's former authentication if the vendor refuses the present
// one.
func (snap snapshot) requestDelegated(ctx context.Context, ds *delegations, request provider.DelegateRequest) (*provider.Answer, *provider.Error) {
	last := snap.latestState().Grant
	if style := ds.authStyle.Load(); style != nil {
		last.AuthStyle = *style
	}
	answer, err := provider.DelegationOf(snap.credential.Vendor).Delegate(ctx, request, last)
	for _, one := range snap.credential.Formers {
		if former := provider.DelegationOf(one.Vendor); former != nil && isOfClient(err) {
			if other, otherErr := former.Delegate(ctx, request, last); !isOfClient(otherErr) {
				answer, err = other, otherErr
			}
		}
	}
	if err != nil {
		return nil, asProviderError(err)
	}
	if answer.Grant != nil {
		ds.authStyle.Store(&answer.Grant.AuthStyle)
	}
	return answer, nil
}

// isOfClient reports whether the vendor refused the client, and not what its caller asked for.
func isOfClient(err error) bool {
	return err != nil && asProviderError(err).Code == "invalid_client"
}

// readDelegated returns the token of an answer, if it is what was asked for. (Guarantee 14.)
func (snap snapshot) readDelegated(answer *provider.Answer, request provider.DelegateRequest, last provider.Token) (provider.Token, *provider.Error) {
	c, state := snap.credential, snap.latestState()
	token, err := answer.Token(c.TTL, last)
	if err != nil {
		return token, asProviderError(err)
	}
	if exposed := answer.CheckSecrets(append(c.secrets(state), request.Secrets()...), append(c.secretsAndTokens(state), request.Secrets()...)); exposed != nil {
		return token, exposed
	}
	for _, own := range state.acceptedTokens() {
		if slices.ContainsFunc(own, func(t provider.Token) bool { return t.AccessToken == token.AccessToken }) {
			return token, provider.Errorf(provider.InvalidResponse, "the vendor returned the credential's own token, which is not for the caller")
		}
	}
	if asked := provider.JoinScope(request.Scope); asked != ownScope {
		if wide := extraScopes(token.Scope, asked, c.Scope); len(wide) > 0 {
			slices.Sort(wide)
			return token, newWidenedError("granted %s as well, which was not asked for and the credential has; give the role a credential of its own",
				provider.Redacted(strings.Join(slices.Compact(wide), " "), append(c.secretsAndTokens(state), token.AccessToken)...))
		}
	}
	var failure *provider.Error
	if token.Warnings, failure = c.checkGranted(answer, askedBy(c, request)); failure != nil {
		return token, failure
	}
	if now := time.Now(); leaseTTL(token, now) == 0 {
		return token, unusableToken(token, c.TTL, now, false)
	}
	return token, nil
}

// askedBy returns the key of what a request asks for: what the credential's narrowing has, and what the caller adds.
func askedBy(c *Credential, request provider.DelegateRequest) string {
	n := provider.ParseNarrowing(c.Narrowing)
	n.Fields = maps.Clone(n.Fields)
	for field, asked := range map[string][]string{"audience": request.Audience, "resource": request.Resource} {
		if len(asked) == 0 {
			continue
		}
		if n.Fields == nil {
			n.Fields = map[string]any{}
		}
		n.Fields[field] = asked
	}
	return n.Key()
}

// delegationFailed records a failure and returns it as an error for the caller. isOfVendor is whether it
// may concern other callers as well.
func (b *Broker) delegationFailed(r *record, snap snapshot, ds *delegations, key delegationKey, x Exchange, isOfVendor bool) error {
	failure, now := x.Err, time.Now()
	switch {
	case failure.Kind == provider.Invalid: // the vendor was not called
		return failure
	case x.isUnsent():
		return b.unsent(snap.of(ownScope), x)
	case failure.Kind == provider.Rejected && !isOfClient(failure):
		x.IsRefused = true
		b.reportDelegated(x)
		refused := &RefusedError{failure}
		ds.refuse(key, refused, now)
		return refused
	case !isOfVendor: // another caller's token may yield another answer
		b.reportDelegated(x)
		return &ExchangeError{Path: snap.credential.Path, Err: failure, NextAttempt: now}
	}
	noted, isNews := r.noteDelegated(snap.epoch, failure, now)
	x.Failures, x.NextAttempt, x.IsNews = noted.Count, noted.NextAttempt, isNews
	b.reportDelegated(x)
	return snap.of(ownScope).readError(noted)
}

// reportDelegated logs an exchange for a caller and reports it to the observer.
func (b *Broker) reportDelegated(x Exchange) {
	if !x.IsRefused {
		b.report(x)
		b.reportFinished(x, false)
		return
	}
	b.observer.Exchanged(x)
	b.source.Logger().Info("the vendor refused a caller's token", "name", x.Name, "vendor", x.Vendor, "error", x.Err.Reason)
}

// onlyDelegates returns the error of a read of a credential that has no token of its own.
func onlyDelegates(c *Credential) error {
	return provider.Errorf(provider.Invalid, "%s has no token of its own; exchange a caller's token by a write to %s", c.Path, apipath.Exchange(c.Name))
}
