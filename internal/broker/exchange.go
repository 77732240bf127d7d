package broker

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// An Exchange is one call to a vendor, and what came of it. It holds no secret.
type Exchange struct {
	Name, Provider string // of the credential
	Scope          string // "" is the credential's own

	// Verification is whether it checked what an operator is about to store, and Dedicated
	// whether its token is one reader's alone.
	Verification, Dedicated bool

	Duration   time.Duration
	ExpireTime time.Time // of the token; zero if there is none

	// Err is why it failed; nil if it did not. Failures is how many have failed in a row
	// then, and NextAttempt when the vendor may be called again; both are zero of a
	// verification, which its operator alone repeats.
	Err         *provider.Error
	Failures    int
	NextAttempt time.Time

	// News is whether the vendor, or the clock, has just ended a credential, or a scope of
	// it, that had not been rejected since an exchange last succeeded.
	News bool

	// Modified is whether readers get another token from now on. That is known once it is
	// stored.
	Modified bool
}

// Success is the result of an exchange that has not failed.
const Success = "success"

// Result is Success, or what kind of failure it was.
func (x Exchange) Result() string {
	if x.Err == nil {
		return Success
	}
	return x.Err.Kind.String()
}

// call calls the vendor once for a scope. If that fails, the state is as it was, but for a
// new grant if the vendor gave one all the same, and for what the answer told of the
// vendor's clock. The vendor has not been called at all if the error is of kind Invalid. The
// access token is the one that it answered with, whether anybody may have it or not; "" if
// there was none.
// earlier is the scope's token of before the credential was changed.
func call(ctx context.Context, c *Credential, state *State, scope string, earlier provider.Token) (next *State, x Exchange, accessToken string) {
	x = Exchange{Name: c.Name, Provider: c.Provider, Scope: scope}
	vendor, err := c.narrowed(scope)
	if err != nil {
		x.Err = asProviderError(err)
		return state, x, ""
	}
	ctx = guard(ctx, c, state)
	began, last := time.Now(), state.Tokens[scope]
	answer, token, failure := ask(ctx, c, state, vendor, state.grant(scope), last, earlier)
	if other := fallback(vendor, state.grant(scope)); other != nil && fallsBack(failure, leaseTTL(last, time.Now()) > 0, state.failures(scope)) {
		answer, token, failure = ask(ctx, c, state, other, provider.Grant{}, last, earlier)
	}
	x.Duration = time.Since(began)
	if answer == nil {
		x.Err = failure
		return state.dated(failure.Clock), x, ""
	}
	token.Seen = began
	state = state.dated(answer.Clock)
	if x.Err = failure; x.Err == nil {
		x.Err = state.refuseDropped(token)
	}
	if x.Err == nil {
		x.Err = c.refuseWidened(state, token, scope)
	}
	if x.Err != nil {
		if answer.Grant != nil {
			state = state.granted(scope, *answer.Grant)
		}
		return state, x, answer.AccessToken
	}
	x.ExpireTime = token.ExpireTime
	return state.succeeded(c, scope, answer, token), x, answer.AccessToken
}

// judged is the state after an exchange that has yielded a token, and the exchange, which
// has failed if nobody can have that token: readers keep the older one then, unless the
// vendor has ended it. again is whether another exchange follows where the vendor's next
// token is seconds away.
func (v view) judged(next *State, x Exchange, again bool) (*State, Exchange) {
	now, token, older := time.Now(), next.Tokens[v.scope], v.token()
	keeps := !token.InvalidatesPrevious && leaseTTL(older, now) > 0
	awaits := !token.RenewableFrom.IsZero() && !keeps // the vendor's next token, which is seconds away
	if leaseTTL(token, now) > 0 || awaits && again {
		return next, x
	}
	x.Err = unusable(token, v.credential.TTL, now, awaits)
	next = next.failing(v.latest())
	if keeps {
		next = next.sharing(with(next.Tokens, v.scope, older))
	}
	return next, x
}

// unusable is why nobody can have a token that an exchange has yielded.
func unusable(t provider.Token, ttl provider.TTL, now time.Time, awaits bool) *provider.Error {
	if awaits {
		return provider.Errorf(provider.Unavailable, "the vendor is too slow to tell whether its token is the one that expires now or the next")
	}
	hint := ""
	if ttl.Max > 0 {
		hint = fmt.Sprintf(" (max_ttl is %s)", ttl.Max)
	}
	if !t.ExpireTime.After(t.Now(now)) {
		return provider.Errorf(provider.InvalidResponse, "the vendor's access token has expired already, at %s by this server's clock%s", FormatTime(t.ExpireTime), hint)
	}
	return provider.Errorf(provider.InvalidResponse, "the vendor's access token lives too short to be leased: until %s%s", FormatTime(t.ExpireTime), hint)
}

// kept tells of an exchange of which it is known by now whether it is stored.
func (b *Broker) kept(x Exchange, stored bool) {
	if x.invalid() {
		return
	}
	// One that is somebody's own is no other's.
	x.Modified = stored && x.Err == nil && !x.Dedicated
	b.observer.Kept(x)
}

// invalid is whether the vendor has not been called.
func (x Exchange) invalid() bool { return x.Err != nil && x.Err.Kind == provider.Invalid }

// tell logs an exchange, and has it counted. It is the one place that does.
func (b *Broker) tell(x Exchange) {
	if x.invalid() {
		return
	}
	b.observer.Exchanged(x)
	logger := b.source.Logger().With("name", x.Name, "provider", x.Provider)
	if x.Scope != ownScope {
		logger = logger.With("scope", x.Scope)
	}
	logger = logger.With("result", x.Result(), "duration", x.Duration.Round(time.Millisecond).String())
	if x.Dedicated {
		logger = logger.With("dedicated", true)
	}
	if x.Verification {
		logger = logger.With("verification", true)
	}
	switch {
	case x.Err == nil:
		logger.Info("exchange succeeded", "expire_time", FormatTime(x.ExpireTime))
	case x.Verification:
		logger.Warn("exchange failed", "error", x.Err.Reason, "next_attempt", "with the next write")
	default:
		logger.Warn("exchange failed", "error", x.Err.Reason, "failures", x.Failures, "next_attempt", FormatTime(x.NextAttempt))
	}
}
