package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/provider"
)

// An Exchange is one call of a vendor and its result. It holds no secret.
type Exchange struct {
	Name, Vendor string // of the credential
	Scope        string // as provider.ShownKey has it; "" is the credential's own scope

	// IsVerification is whether the exchange verified a credential that is not stored yet.
	// IsDedicated is whether its token is for one reader only.
	IsVerification, IsDedicated bool

	// IsDelegated is whether it exchanged a caller's token, and IsRefused whether the vendor refused that,
	// which says nothing about the credential.
	IsDelegated, IsRefused bool

	Duration   time.Duration
	ExpireTime time.Time // of the token; zero if there is none

	// Err is why the exchange failed; nil if it succeeded. Failures is the number of failures in a
	// row, and NextAttempt is when the vendor may be called again. Both are zero for a
	// verification, which the operator repeats.
	Err         *provider.Error
	Failures    int
	NextAttempt time.Time

	// IsNews is whether this is the first exchange since the last success that shows that the
	// credential, or one of its scopes, is rejected or has expired. For a variant, it is not set.
	IsNews bool

	// CanConsent is whether a person's consent can yield the credential's secret.
	CanConsent bool

	// UsesFormer is whether the vendor has refused the client's secrets, and accepted former ones.
	UsesFormer bool

	// IsModified is whether readers get another token from now on. It is set once the result is
	// stored.
	IsModified bool
}

// Success is the result of an exchange that succeeded, and Refused that of one whose caller's token the vendor
// refused.
const (
	Success = "success"
	Refused = "refused"
)

// Result returns Success, or the kind of the failure.
func (x Exchange) Result() string {
	switch {
	case x.Err == nil:
		return Success
	case x.IsRefused:
		return Refused
	}
	return x.Err.Kind.String()
}

// isInvalid reports whether the vendor was not called.
func (x Exchange) isInvalid() bool { return x.Err != nil && x.Err.Kind == provider.Invalid }

// isUnsent reports whether no request was sent, because its turn did not come in time.
func (x Exchange) isUnsent() bool { return x.Err != nil && x.Err.NotSent }

// exchangeScope calls the vendor once for a scope, and stores the result. mayRepeat is whether
// another exchange follows if the token expires before it can be leased. The error is ErrBusy if
// ctx is done before the call. The caller holds the lock of the name.
func (b *Broker) exchangeScope(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot, mayRepeat bool) (scopeSnapshot, error) {
	if ctx.Err() != nil {
		return v, ErrBusy
	}
	if provider.OnlyDelegates(v.credential.Vendor) {
		return v, onlyDelegates(v.credential)
	}
	latest := v.latestState()
	if consent := provider.ConsentOf(v.credential.Vendor); consent != nil && consent.IsMissing() && latest.grantFor(v.scope).RefreshToken == "" {
		return v, consentRequired(v.credential, v.scope)
	}
	// Storage is asked when it is the turn of the first request: not for one that is not sent, and not long before. It
	// must answer within the time of the renewal, so that the exchange has time left for the vendor.
	p := prover{renewal: ctx, storage: s, used: latest.grantFor(v.scope)}
	ctx, cancel := exchangeContext(ctx)
	defer cancel()
	next, x, _ := callVendor(provider.WithCheck(r.admit(ctx), p.prove), v.credential, latest, v.scope, v.previousTokens[v.scope])
	if errors.Is(p.failure, ErrBusy) {
		return v, ErrBusy
	}
	if unwritable := p.failure; unwritable != nil {
		b.logger(v).Warn("storage does not accept writes, so the vendor is not called", "error", unwritable)
		r.keepUnsaved(s, latest, unwritable)
		return v, unwritable
	}
	if x.isUnsent() {
		return v, b.unsent(v, x)
	}
	b.logSkew(r, next)
	if x.Err == nil {
		next, x = v.checkUsable(next, x, mayRepeat)
	}
	if x.Err == nil {
		defer r.setPending("")
		if x.Err = b.checkOwn(r, v.credential, next.Tokens[v.scope]); x.Err != nil {
			next = next.withTokens(latest.Tokens).withFailuresOf(latest)
		}
	}
	x.Err = v.credential.unnamed(x.Err)
	if x.isInvalid() {
		return v, x.Err
	}
	if x.Err != nil {
		return b.exchangeFailed(ctx, s, r, v, next, x)
	}
	b.report(x)
	snap, err := b.save(ctx, s, r, v.snapshot, v.scope, next)
	b.reportFinished(x, err == nil)
	return v.withSnapshot(snap), err
}

// isUnsent reports whether an exchange was not made, because its turn did not come in time.
func isUnsent(err error) bool {
	var failed *ExchangeError
	return errors.As(err, &failed) && failed.Err.NotSent
}

// unsent returns the error of an exchange that was not made, because its turn did not come in time.
// It says nothing about the credential, so that it is not a failure of it. (Guarantee 16.)
func (b *Broker) unsent(v scopeSnapshot, x Exchange) error {
	if isClosed(b.closed) {
		return ErrClosed
	}
	next := x.Err.NotBefore
	if next.IsZero() {
		next = time.Now()
	}
	return &ExchangeError{Path: v.credential.Path, Scope: v.scope, Err: x.Err, NextAttempt: next}
}

// consentRequired returns the error of a read of a credential that nobody has consented to. There is nothing to
// exchange, and so no failure of one.
func consentRequired(c *Credential, scope string) error {
	err := provider.Errorf(provider.Rejected, "no person has consented yet; begin with a write to %s", apipath.Authorize(c.Name))
	err.Code = provider.CodeConsentRequired
	return &ExchangeError{Path: c.Path, Scope: scope, Err: err}
}

// exchangeContext returns the context of an exchange that begins now. It does not end with the
// request, since the vendor's answer must be stored.
func exchangeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), exchangeTimeout)
}

// exchangeFailed stores the failure of an exchange, and anything else that the vendor returned. The
// error is of type *ExchangeError, or of type *storage.Error if a new grant cannot be stored.
func (b *Broker) exchangeFailed(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot, state *State, x Exchange) (scopeSnapshot, error) {
	now := time.Now()
	next := state.failed(v.scope, x.Err, now)
	failure := v.withSnapshot(snapshot{state: next}).lastFailure(now)
	x.Failures, x.NextAttempt = failure.Count, failure.NextAttempt
	x.IsNews = next.isRejected(v.scope) && !v.state.isRejected(v.scope)
	if isVariant(r.name) { // what concerns one reader is not news of the credential
		x.IsNews = x.IsNews && x.Err.AboutClient() && !b.isKnownOfClient(r)
	}
	b.report(x)
	defer b.reportFinished(x, false)
	// Even an unusable token may have invalidated the previous one.
	if !next.hasSameGrants(v.latestState()) || !x.ExpireTime.IsZero() {
		snap, err := b.save(ctx, s, r, v.snapshot, v.scope, next)
		if err != nil {
			return v.withSnapshot(snap), err
		}
		return v.withSnapshot(snap), v.withSnapshot(snap).backOffError()
	}
	snap, err := b.saveFailure(ctx, s, r, v, next, x.Err)
	if err != nil {
		return v.withSnapshot(snap), err
	}
	return v.withSnapshot(snap), v.withSnapshot(snap).backOffError()
}

// callVendor calls the vendor once for a scope and returns the next state. previous is the scope's
// token from before the last change of the credential. If the exchange fails, the state is the
// given one with the vendor's clock and any new grant. A failure of kind Invalid means that the
// vendor was not called. accessToken is the token in the vendor's answer, whether usable or not; ""
// if there is none.
func callVendor(ctx context.Context, c *Credential, state *State, scope string, previous provider.Token) (next *State, x Exchange, accessToken string) {
	x = Exchange{Name: BaseName(c.Name), Vendor: c.VendorName, Scope: provider.ShownKey(scope), CanConsent: provider.ConsentOf(c.Vendor) != nil}
	vendor, err := c.narrowed(scope)
	if err != nil {
		x.Err = asProviderError(err)
		return state, x, ""
	}
	ctx = redacting(ctx, c, state)
	began := time.Now()
	answer, token, accepted, failure := requestTokenAs(ctx, c, state, vendor, scope, state.Tokens[scope], previous)
	if accepted != "" {
		state = state.withAccepted(accepted, answer != nil)
	}
	x.UsesFormer = accepted != "" && accepted != c.Version.Secrets
	x.Duration = time.Since(began)
	if answer == nil {
		x.Err = c.aboutFields(failure, scope)
		return state.withClock(failure.Clock), x, ""
	}
	token.Seen = began
	state = state.withClock(answer.Clock)
	if x.Err = failure; x.Err == nil {
		x.Err = state.checkNotDropped(token)
	}
	if x.Err == nil {
		x.Err = c.checkNotWidened(state, token, scope)
	}
	if x.Err == nil {
		token.Warnings, x.Err = c.checkGranted(answer, c.keyOf(scope))
	}
	if x.Err != nil {
		if answer.Grant != nil {
			state = state.withGrant(scope, *answer.Grant)
		}
		return state, x, answer.AccessToken
	}
	x.ExpireTime = token.ExpireTime
	return state.succeeded(c, scope, answer, token), x, answer.AccessToken
}

// requestGranted requests a token with the scope's grant, or with the fallback of the credential.
func requestGranted(ctx context.Context, c *Credential, s *State, vendor provider.Credential, scope string, last, previous provider.Token) (*provider.Answer, provider.Token, *provider.Error) {
	grant := s.grantFor(scope)
	answer, token, failure := requestToken(ctx, c, s, vendor, grant, last, previous)
	other := fallback(vendor, grant)
	if other != nil && usesFallback(failure, leaseTTL(last, time.Now()) > 0, s.failureCount(scope)) {
		return requestToken(ctx, c, s, other, provider.Grant{}, last, previous)
	}
	return answer, token, failure
}

// requestToken calls the vendor once, and reads the token in its answer. The answer is nil if there
// is none, and may accompany a failure. If there is no last token and the vendor returns the
// previous one again, that counts as the last: max_ttl runs from its first issue.
func requestToken(ctx context.Context, c *Credential, s *State, vendor provider.Credential, grant provider.Grant, last, previous provider.Token) (*provider.Answer, provider.Token, *provider.Error) {
	answer, err := vendor.Exchange(ctx, grant)
	if err != nil {
		return nil, provider.Token{}, asProviderError(err)
	}
	if last.AccessToken == "" && answer.AccessToken == previous.AccessToken {
		last = previous
	}
	token, err := answer.Token(c.TTL, last)
	if err != nil {
		return answer, token, asProviderError(err)
	}
	return answer, token, answer.CheckSecrets(c.secrets(s), c.secretsAndTokens(s))
}

// fallback returns the credential's alternative to a grant; nil if none.
func fallback(vendor provider.Credential, grant provider.Grant) provider.Credential {
	if other, ok := vendor.(provider.Fallback); ok {
		return other.Fallback(grant)
	}
	return nil
}

// usesFallback reports whether to try the fallback after a failure. A rejected grant has ended.
// After any other failure, the grant may work at the next attempt, so the first one does not cause
// a fallback while there is a valid token. A vendor that throttles gets no further request.
func usesFallback(failure *provider.Error, isValid bool, failures int) bool {
	switch {
	case failure == nil || failure.Kind == provider.Invalid || failure.NotSent:
		return false
	case failure.Kind == provider.Rejected:
		return true
	case failure.Throttled():
		return false
	}
	return !isValid || failures > 0
}

// checkUsable turns an exchange whose token cannot be leased into a failure. Readers keep the last
// token unless the exchange has invalidated it. mayRepeat is whether another exchange follows if
// the vendor's next token is seconds away.
func (v scopeSnapshot) checkUsable(next *State, x Exchange, mayRepeat bool) (*State, Exchange) {
	now, token, last := time.Now(), next.Tokens[v.scope], v.token()
	keepsLast := !token.InvalidatesPrevious && leaseTTL(last, now) > 0
	isNextSoon := !token.RenewableFrom.IsZero() && !keepsLast
	if leaseTTL(token, now) > 0 || isNextSoon && mayRepeat {
		return next, x
	}
	x.Err = unusableToken(token, v.credential.TTL, now, isNextSoon)
	next = next.withFailuresOf(v.latestState())
	if keepsLast {
		next = next.withTokens(withKey(next.Tokens, v.scope, last))
	}
	return next, x
}

// unusableToken returns why an issued token cannot be leased.
func unusableToken(t provider.Token, ttl provider.TTL, now time.Time, isNextSoon bool) *provider.Error {
	if isNextSoon {
		return provider.Errorf(provider.Unavailable, "the vendor's response took too long to determine which hour its token belongs to")
	}
	hint := ""
	if ttl.Max > 0 {
		hint = fmt.Sprintf(" (max_ttl is %s)", ttl.Max)
	}
	if !t.ExpireTime.After(t.Now(now)) {
		return provider.Errorf(provider.InvalidResponse, "the vendor's access token expired at %s, before it was received%s", FormatTime(t.ExpireTime), hint)
	}
	return provider.Errorf(provider.InvalidResponse, "the vendor's access token expires at %s, too soon to lease%s", FormatTime(t.ExpireTime), hint)
}

// report logs an exchange and reports it to the observer.
func (b *Broker) report(x Exchange) {
	if x.isInvalid() {
		return
	}
	b.observer.Exchanged(x)
	logger := b.source.Logger().With("name", x.Name, "vendor", x.Vendor)
	if x.Scope != ownScope {
		logger = logger.With("scope", x.Scope)
	}
	logger = logger.With("result", x.Result(), "duration", x.Duration.Round(time.Millisecond).String())
	if x.IsDedicated {
		logger = logger.With("dedicated", true)
	}
	if x.IsVerification {
		logger = logger.With("verification", true)
	}
	if x.UsesFormer {
		logger.Warn("the vendor refuses the present secret, and accepts another one of the rotation")
	}
	if x.IsDelegated {
		logger = logger.With("delegated", true)
	}
	switch {
	case x.Err == nil:
		logger.Info("exchange succeeded", "expire_time", FormatTime(x.ExpireTime))
	case x.IsVerification:
		logger.Warn("exchange failed", "error", x.Err.Reason, "next_attempt", "with the next write")
	default:
		logger.Warn("exchange failed", "error", x.Err.Reason, "failures", x.Failures, "next_attempt", FormatTime(x.NextAttempt))
	}
}

// reportFinished reports to the observer whether the result of an exchange is stored.
func (b *Broker) reportFinished(x Exchange, isStored bool) {
	if x.isInvalid() {
		return
	}
	x.IsModified = isStored && x.Err == nil && !x.IsDedicated && !x.IsDelegated
	b.observer.Finished(x)
}

func asProviderError(err error) *provider.Error {
	var e *provider.Error
	if errors.As(err, &e) {
		return e
	}
	return provider.Errorf(provider.Unavailable, "%s", err)
}
