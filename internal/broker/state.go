package broker

import (
	"errors"
	"maps"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A State is the result of the exchanges of one credential. It never changes; another State
// replaces it. Storage has a State in several entries (entries.go). The entry of a credential has
// the State that resulted from its verification.
type State struct {
	// Generation identifies the write of the credential that the state belongs to. The engine
	// ignores the state of any other generation.
	Generation string `json:"generation"`

	// Number is the sequence number of the last write.
	Number int `json:"number,omitempty"`

	// Tokens are the access tokens by scope; "" is the credential's own.
	Tokens map[string]provider.Token `json:"tokens,omitempty"`

	// Grant is what the last exchange returned for the next one. A derived Grant is only for the
	// credential's own scope; Grants are those of narrower scopes.
	Grant  provider.Grant            `json:"grant,omitzero"`
	Grants map[string]provider.Grant `json:"grants,omitempty"`

	// Dropped are the tokens that are no longer served and must be revoked at the vendor, by scope.
	// A token that was stored with a Number below DroppedBefore is dropped as well.
	Dropped       map[string][]provider.Token `json:"dropped,omitempty"`
	DroppedBefore int                         `json:"dropped_before,omitempty"`

	// ScopeFailures are the failures that may concern only the scope, by scope.
	ScopeFailures map[string]Failure `json:"scope_failures,omitempty"`

	Health
}

// Health is what storage has of the success of a credential's exchanges. Status has more.
type Health struct {
	// Exchanges is the number of successful exchanges; ExchangeTime is the time of the last.
	Exchanges    int       `json:"exchanges,omitempty"`
	ExchangeTime time.Time `json:"exchange_time,omitzero"`

	// CredentialExpireTime is when the credential expires if it is not used; zero if unknown.
	CredentialExpireTime time.Time `json:"credential_expire_time,omitzero"`

	// ClockSkew is how far the vendor's clock is at least ahead of this server's; nil if no answer
	// has shown it.
	ClockSkew *time.Duration `json:"clock_skew,omitempty"`

	// Revocation is the last attempt to revoke dropped tokens.
	Revocation *Revocation `json:"revocation,omitempty"`

	// Client is what the exchanges have used of the credential's client.
	Client ClientUse `json:"client,omitzero"`

	// Failure is the last failed exchange that concerns the whole credential.
	Failure Failure `json:"failure,omitzero"`
}

// ownScope stands for the credential's own scope.
const ownScope = ""

// maxCount is more than any counter reaches.
const maxCount = 1 << 49

// Check returns an error for a State that the engine never writes.
func (s *State) Check() error {
	err := newHeader(s).check()
	for _, failure := range s.ScopeFailures {
		err = errors.Join(err, failure.check())
	}
	return err
}

func (h header) check() error {
	if h.Number < 0 || h.Exchanges < 0 || max(h.Number, h.Exchanges) >= maxCount {
		return errors.New("a count is out of range")
	}
	return h.Failure.check()
}

// Unverified returns the State of a credential that was never exchanged.
func Unverified(c *Credential, last provider.Grant) *State {
	return &State{Generation: c.Generation, Grant: last, Health: Health{Client: ClientUse{ClientVersion: c.Version}}}
}

// grantFor returns the grant to use in an exchange for a scope.
func (s *State) grantFor(scope string) provider.Grant {
	if scope != ownScope && (s.Grant.Derived || s.Grants[scope].Derived) {
		return s.Grants[scope]
	}
	return s.Grant
}

// hasSameGrants reports whether two states have the same grants.
func (s *State) hasSameGrants(other *State) bool {
	return s.Grant == other.Grant && maps.Equal(s.Grants, other.Grants)
}

// succeeded returns the state after a successful exchange for a scope.
func (s *State) succeeded(c *Credential, scope string, a *provider.Answer, token provider.Token) *State {
	next := *s
	if a.Grant != nil {
		next = *s.withGrant(scope, *a.Grant)
	}
	next.Tokens = withKey(next.Tokens, scope, token)
	next.Exchanges = min(next.Exchanges+1, maxCount-1)
	next.ExchangeTime = token.IssueTime
	switch idle := c.Vendor.MaxIdle(); {
	case a.NotRenewable:
		next.CredentialExpireTime = token.ExpireTime
	case idle > 0:
		next.CredentialExpireTime = token.IssueTime.Add(idle)
	}
	next.Failure.Count, next.Failure.NextAttempt, next.Failure.AfterFinal, next.Failure.RejectedSince = 0, time.Time{}, false, time.Time{}
	next.ScopeFailures = withoutKeys(next.ScopeFailures, func(other string, _ Failure) bool { return other == scope })
	next.prune(token.IssueTime)
	return &next
}

// failed returns the state after a failed exchange for a scope. A failure that may concern only the
// scope does not count against others. If the vendor rejects the credential for a narrower scope,
// that scope backs off longer, so that others are tried first: some vendors reject the credential
// when they mean the scope.
func (s *State) failed(scope string, e *provider.Error, now time.Time) *State {
	next := *s
	failure := Failure{Kind: e.Kind, Reason: e.Reason, Time: now.Round(0).UTC(), MayBeScope: e.MayBeScope, Widened: e.Widened}
	if e.MayBeScope {
		failure.countAfter(s.ScopeFailures[scope], e)
		next.ScopeFailures = withKey(s.ScopeFailures, scope, failure)
	} else {
		failure.countAfter(s.Failure, e)
		next.Failure = failure
		if scope != ownScope && e.Kind == provider.Rejected {
			failure.NextAttempt = failure.NextAttempt.Add(rejectedBackOff)
			next.ScopeFailures = withKey(s.ScopeFailures, scope, failure)
		}
	}
	next.prune(now)
	return &next
}

// WithFailure returns the state after an exchange for the credential's own scope that has failed with err now.
func (s *State) WithFailure(err error) *State {
	return s.failed(ownScope, asProviderError(err), time.Now())
}

// prune removes the parts of narrower scopes that are no longer used. The caller must not have
// shared the state yet.
func (s *State) prune(now time.Time) {
	s.Grants = withoutKeys(s.Grants, func(_ string, g provider.Grant) bool {
		return !g.ExpireTime.IsZero() && now.After(g.ExpireTime)
	})
	s.Tokens = withoutKeys(s.Tokens, func(scope string, t provider.Token) bool {
		return scope != ownScope && !wasRecentlyValid(t, now)
	})
	s.ScopeFailures = withoutKeys(s.ScopeFailures, func(scope string, f Failure) bool { return f.isOutdated(scope, now) })
	s.Dropped = unexpired(s.Dropped, now)
}

// withClock returns the state with the vendor's clock, if the answer shows it.
func (s *State) withClock(c provider.Clock) *State {
	if c.Date.IsZero() {
		return s
	}
	next, skew := *s, c.Skew()
	next.ClockSkew = &skew
	return &next
}

// asOf returns a state that was read from storage now. It leaves out tokens with an issue time in
// the future. The clock has been stepped back since their issue, or was another server's, so it
// cannot measure their lifetime.
func (s *State) asOf(now time.Time) *State {
	next := *s
	next.Tokens = maps.Clone(s.Tokens)
	for scope, token := range next.Tokens {
		if token.IssueTime.After(now) {
			delete(next.Tokens, scope)
			continue
		}
		token.Seen = now
		next.Tokens[scope] = token
	}
	return &next
}

// WithGrant returns the state with a new grant for the credential's own scope.
func (s *State) WithGrant(g provider.Grant) *State { return s.withGrant(ownScope, g) }

// withGrant returns the state with a new grant. A rotated refresh token is for all scopes.
func (s *State) withGrant(scope string, g provider.Grant) *State {
	next := *s
	if scope != ownScope && g.Derived {
		next.Grants = withKey(s.Grants, scope, g)
	} else {
		next.Grant = g
	}
	return &next
}

// withTokens returns the state with other tokens.
func (s *State) withTokens(tokens map[string]provider.Token) *State {
	next := *s
	next.Tokens = tokens
	return &next
}

// GrantedScope returns the scope of the credential's own token; nil if it is unknown.
func (s *State) GrantedScope() []string { return s.Tokens[ownScope].Scope }

// InvalidatesPrevious reports whether the last exchange for the credential's own scope has
// invalidated the token before it.
func (s *State) InvalidatesPrevious() bool { return s.Tokens[ownScope].InvalidatesPrevious }

// invalidates reports whether a scope's token from an older state is no longer valid.
func (s *State) invalidates(scope string, token provider.Token) bool {
	next, has := s.Tokens[scope]
	return !has || next.InvalidatesPrevious && next.AccessToken != token.AccessToken
}

// WithoutTokens returns the state without its tokens, which the vendor no longer accepts.
func (s *State) WithoutTokens() *State {
	next := s.withTokens(nil)
	next.DroppedBefore = s.Number + 1
	return next
}

// withDroppedTokens returns the state with its tokens dropped, and without a back-off.
func (s *State) withDroppedTokens() *State {
	next := *s
	next.Dropped = s.acceptedTokens()
	for scope, tokens := range next.Dropped {
		next.Dropped[scope] = newest(tokens)
	}
	next.Tokens, next.DroppedBefore = nil, s.Number+1
	return next.withoutBackOff()
}

// withRevocation returns the state after dropped tokens were revoked. left are those that were not.
// The state is stored with the next exchange.
func (s *State) withRevocation(r *Revocation, left map[string][]provider.Token) *State {
	next := *s
	next.Revocation, next.Dropped = r, left
	return &next
}

// failureCount returns how many exchanges for a scope have failed in a row.
func (s *State) failureCount(scope string) int {
	return max(s.Failure.Count, s.ScopeFailures[scope].Count)
}

// withFailuresOf returns the state with the failures of the last state, which an exchange without a
// usable token does not end.
func (s *State) withFailuresOf(last *State) *State {
	next := *s
	next.Failure, next.ScopeFailures = last.Failure, last.ScopeFailures
	return &next
}

// withoutBackOff returns the state with an immediate next attempt. It has no failures of narrower
// scopes.
func (s *State) withoutBackOff() *State {
	next := *s
	next.ScopeFailures = nil
	next.Failure.NextAttempt = time.Time{}
	if own, hasFailed := s.ScopeFailures[ownScope]; hasFailed {
		own.NextAttempt = time.Time{}
		next.ScopeFailures = withKey(next.ScopeFailures, ownScope, own)
	}
	return &next
}

// isRejected reports whether readers of a scope need a new credential or another scope.
func (s *State) isRejected(scope string) bool {
	return s.Failure.isFinal() || s.ScopeFailures[scope].isFinal()
}

// unusedExpireTime returns when the credential expires if it is not used; zero if unknown. It is
// unknown if the last exchange is in the future, because the clock has been stepped back since.
func (h Health) unusedExpireTime(now time.Time) time.Time {
	if h.ExchangeTime.After(now) {
		return time.Time{}
	}
	return h.CredentialExpireTime
}

// withKey returns a copy of a map with one value set.
func withKey[V any](m map[string]V, key string, value V) map[string]V {
	next := maps.Clone(m)
	if next == nil {
		next = map[string]V{}
	}
	next[key] = value
	return next
}

// withoutKeys returns a copy of a map without the unwanted values, or the map itself if it has
// none.
func withoutKeys[V any](m map[string]V, isUnwanted func(string, V) bool) map[string]V {
	for key, value := range m {
		if isUnwanted(key, value) {
			next := maps.Clone(m)
			maps.DeleteFunc(next, isUnwanted)
			return next
		}
	}
	return m
}
