package broker

import (
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// memory is what is known of a name.
type memory struct {
	// epoch counts the changes.
	epoch uint64

	// credential and state are what readers see, as storage has it; nil until they are
	// loaded.
	credential *Credential
	state      *State

	// unsaved is what storage has not got yet; nil if it has all.
	unsaved *unsaved

	// dedicated are, by role, the failures of exchanges that count against a dedicated role
	// only.
	dedicated map[string]Failure

	// early is, by scope, until when the exchanges that readers have caused by their min_ttl
	// would last if they were earlySpacing apart.
	early map[string]time.Time

	// absent is whether storage has no usable credential of the name, and unusable whether
	// it has one that is none.
	absent, unusable bool

	// panicked is until when the name is not used after a panic; zero if there was none
	// since it was loaded.
	panicked time.Time

	// earlier are, by scope, the tokens of before the credential was last changed. A vendor may
	// answer with one of them again, and max_ttl runs from its first issue. It is nil if there is
	// no max_ttl.
	earlier map[string]provider.Token

	// loggedSkew is what was last logged of the vendor's clock.
	loggedSkew time.Duration
}

// latest is what is known of the credential, stored or not; nil if it is not loaded.
func (m memory) latest() *State {
	if m.unsaved != nil {
		return m.unsaved.state
	}
	return m.state
}

// earlierTokens returns what earlier is after a change of the credential.
func (m memory) earlierTokens() map[string]provider.Token {
	if m.credential == nil || m.credential.TTL.Max == 0 {
		return nil
	}
	return m.latest().Tokens
}

// A view is what is known of a name as the readers of one scope see it.
type view struct {
	memory
	scope string
}

// view is for memory that is loaded.
func (m memory) view(scope string) view {
	if scope == m.credential.Scope {
		scope = ownScope
	}
	return view{memory: m, scope: scope}
}

// with is the same scope's view of what has become of the name.
func (v view) with(m memory) view { return view{memory: m, scope: v.scope} }

// token is the one to serve, unless what storage has not got yet has ended it.
func (v view) token() provider.Token {
	token := v.state.Tokens[v.scope]
	if v.unsaved != nil && v.unsaved.state.ends(v.scope, token) {
		return provider.Token{}
	}
	return token
}

// unwritten is the write that has to be done before another exchange; nil if there is none.
func (v view) unwritten() *failedWrite { return v.unsaved.of(v.scope) }

// reading is what a reader gets from memory; nil if there is no good token, or if a
// better one is seconds away.
func (v view) reading(now time.Time, minTTL time.Duration) *IssuedToken {
	if dying(v.token(), now) && !v.held(now) {
		return nil
	}
	return v.lease(now, minTTL)
}

// lease is what a reader gets if there is nothing better to be had.
func (v view) lease(now time.Time, minTTL time.Duration) *IssuedToken {
	token := v.token().At(now)
	ttl := leaseTTL(token, now)
	if ttl == 0 {
		return nil
	}
	fresher := refreshTime(token)
	if v.held(now) {
		fresher = v.nextAttempt(now)
	}
	reading := &IssuedToken{Token: token, Provider: v.credential.Provider, TTL: ttl, Reread: rereadTTL(token, fresher, now)}
	return reading.warned(v, now, minTTL)
}

// due is whether a renewal can help a reader now.
func (v view) due(now time.Time, minTTL time.Duration) bool {
	if v.held(now) {
		return false
	}
	return v.unwritten() != nil || overdue(v.token(), now) || v.short(now, minTTL)
}

// short is whether the token lives too short for a reader, and the next would not.
func (v view) short(now time.Time, minTTL time.Duration) bool {
	return leaseTTL(v.token(), now) < minTTL && renewable(v.token(), now, minTTL) && !now.Before(v.earlyTime())
}

// earlyTime is when readers may cause another exchange by their min_ttl.
func (v view) earlyTime() time.Time {
	return v.early[v.scope].Add(-(earlyAtOnce - 1) * earlySpacing(v.token()))
}

// tookEarly notes that a reader causes an exchange by its min_ttl.
func (v view) tookEarly(m *memory, now time.Time) {
	m.early = with(m.early, v.scope, later(m.early[v.scope], now).Add(earlySpacing(v.token())))
}

// held is whether the vendor, or the storage, is to be left alone for now.
func (v view) held(now time.Time) bool { return now.Before(v.nextAttempt(now)) }

// nextAttempt is until when.
func (v view) nextAttempt(now time.Time) time.Time {
	next := v.failure(now).NextAttempt
	if w := v.unwritten(); w != nil {
		next = later(next, w.retryTime)
	}
	return next
}

// failure is the last exchange that failed and concerns the scope, as it is at a time.
func (v view) failure(now time.Time) Failure {
	refusal, failure := v.state.Refusals[v.scope].seen(now), v.state.Failure.seen(now)
	if refusal.NextAttempt.After(failure.NextAttempt) {
		return refusal
	}
	return failure
}

// tooLate is why a reader gets nothing though an exchange has just yielded a token.
func (v view) tooLate(now time.Time) error {
	return &ExchangeError{
		Name: v.credential.Name, Provider: v.credential.Provider, Scope: v.scope, NextAttempt: now,
		Err: provider.Errorf(provider.Unavailable, "the token has died while it was being stored"),
	}
}

// refusal is why a reader gets nothing while attempts are held.
func (v view) refusal() error {
	if w := v.unwritten(); w != nil {
		return w.err
	}
	return v.refusalOf(v.failure(time.Now()))
}

// refusalOf is a failure as its readers get it.
func (v view) refusalOf(failure Failure) error {
	return &ExchangeError{
		Name:        v.credential.Name,
		Provider:    v.credential.Provider,
		Scope:       v.scope,
		Err:         &provider.Error{Kind: failure.Kind, Reason: failure.Reason, MayBeScope: failure.MayBeScope, Widened: failure.Widened},
		NextAttempt: failure.NextAttempt,
	}
}
