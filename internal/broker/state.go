package broker

import (
	"errors"
	"maps"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A State is what the engine found out about one credential. States are never changed,
// only replaced. How storage has them is in entries.go; a credential's entry has the one
// that it was verified with as it is here.
type State struct {
	// Generation is the write of the credential that this belongs to. Under any
	// other the state is void, which is how one write to the configuration ends
	// all that came before.
	Generation string `json:"generation"`

	// Number counts the states that were to be stored.
	Number int `json:"number,omitempty"`

	// Tokens are the access tokens by scope, "" being the credential's own.
	Tokens map[string]provider.Token `json:"tokens,omitempty"`

	// Grant is what the last exchange left for the next. A derived one is of the
	// credential's own scope; Grants are those of narrower ones.
	Grant  provider.Grant            `json:"grant,omitzero"`
	Grants map[string]provider.Grant `json:"grants,omitempty"`

	// Dropped are tokens that nobody is served any more, and that are still to be
	// revoked at the vendor, by scope. All that were stored under a number less than Void
	// are dropped.
	Dropped map[string][]provider.Token `json:"dropped,omitempty"`
	Void    int                         `json:"void,omitempty"`

	// Refusals are, by scope, the exchanges that a vendor may have rejected for the scope.
	Refusals map[string]Failure `json:"refusals,omitempty"`

	Health
}

// Health is how a credential is doing.
type Health struct {
	// Exchanges counts those that succeeded, ExchangeTime is when the last did.
	Exchanges    int       `json:"exchanges,omitempty"`
	ExchangeTime time.Time `json:"exchange_time,omitzero"`

	// CredentialExpireTime is when the credential dies if it stays unused; zero if
	// that is not known.
	CredentialExpireTime time.Time `json:"credential_expire_time,omitzero"`

	// ClockSkew is how far the vendor's clock is ahead of ours, at the least; nil if
	// no answer has told.
	ClockSkew *time.Duration `json:"clock_skew,omitempty"`

	// Revocation is the last attempt at revoking dropped tokens.
	Revocation *Revocation `json:"revocation,omitempty"`

	// Failure is the last exchange that failed and says something of the credential.
	Failure Failure `json:"failure,omitzero"`
}

// A Failure is an exchange that failed.
type Failure struct {
	Kind   provider.Kind `json:"kind"`
	Reason string        `json:"reason"`
	Time   time.Time     `json:"time"`

	// Count is how many have failed in a row; zero once one has succeeded.
	Count int `json:"count,omitempty"`

	// NextAttempt is when the vendor may be called again.
	NextAttempt time.Time `json:"next_attempt,omitzero"`

	// MayBeScope is whether the vendor may have rejected the scope alone.
	MayBeScope bool `json:"may_be_scope,omitempty"`

	// Widened is whether the vendor granted more than it was asked for.
	Widened bool `json:"widened,omitempty"`

	// Ended is whether one of those before it, in the same row, was final: a vendor who
	// is down says nothing of a credential that he has rejected.
	Ended bool `json:"ended,omitempty"`
}

// check refuses what the engine does not write.
func (f Failure) check() error {
	if f.Count < 0 || f.Count >= maxCount || f.Kind < 0 {
		return errors.New("a failure that cannot be")
	}
	return nil
}

// maxCount is more than any counter comes to.
const maxCount = 1 << 49

// check refuses what the engine does not write.
func (h header) check() error {
	if h.Number < 0 || h.Exchanges < 0 || max(h.Number, h.Exchanges) >= maxCount {
		return errors.New("counts that cannot be")
	}
	return h.Failure.check()
}

// Check refuses what the engine does not write.
func (s *State) Check() error {
	err := s.header().check()
	for _, refusal := range s.Refusals {
		err = errors.Join(err, refusal.check())
	}
	return err
}

// ownScope stands for the credential's own scope.
const ownScope = ""

// grant is what to exchange the credential with for a scope.
func (s *State) grant(scope string) provider.Grant {
	if scope != ownScope && (s.Grant.Derived || s.Grants[scope].Derived) {
		return s.Grants[scope]
	}
	return s.Grant
}

// sameGrants is whether two states exchange the credential with the same.
func (s *State) sameGrants(other *State) bool {
	return s.Grant == other.Grant && maps.Equal(s.Grants, other.Grants)
}

// Unverified is what is known of a credential that has never been exchanged.
func Unverified(c *Credential, last provider.Grant) *State {
	return &State{Generation: c.Generation, Grant: last}
}

// succeeded is the state after an exchange for a scope.
func (s *State) succeeded(c *Credential, scope string, a *provider.Answer, token provider.Token) *State {
	next := *s
	if a.Grant != nil {
		next = *s.granted(scope, *a.Grant)
	}
	next.Tokens = with(next.Tokens, scope, token)
	next.Exchanges = min(next.Exchanges+1, maxCount-1)
	next.ExchangeTime = token.IssueTime
	switch idle := c.Vendor.MaxIdle(); {
	case a.NotRenewable:
		next.CredentialExpireTime = token.ExpireTime
	case idle > 0:
		next.CredentialExpireTime = token.IssueTime.Add(idle)
	}
	next.Failure.Count, next.Failure.NextAttempt, next.Failure.Ended = 0, time.Time{}, false
	next.Refusals = without(next.Refusals, func(refused string, _ Failure) bool { return refused == scope })
	next.prune(token.IssueTime)
	return &next
}

// prune drops what is left of narrower scopes that nobody asks for any more. The
// state is one that nobody else has seen.
func (s *State) prune(now time.Time) {
	s.Grants = without(s.Grants, func(_ string, g provider.Grant) bool {
		return !g.ExpireTime.IsZero() && now.After(g.ExpireTime)
	})
	s.Tokens = without(s.Tokens, func(scope string, t provider.Token) bool {
		return scope != ownScope && !inUse(t, now)
	})
	s.Refusals = without(s.Refusals, func(scope string, f Failure) bool { return f.forgotten(scope, now) })
	s.Dropped = living(s.Dropped, now)
}

// with is a copy of a map with one more.
func with[V any](m map[string]V, key string, value V) map[string]V {
	next := maps.Clone(m)
	if next == nil {
		next = map[string]V{}
	}
	next[key] = value
	return next
}

// without is a copy of a map without some; it is the map itself if there are none.
func without[V any](m map[string]V, some func(string, V) bool) map[string]V {
	for key, value := range m {
		if some(key, value) {
			next := maps.Clone(m)
			maps.DeleteFunc(next, some)
			return next
		}
	}
	return m
}

// dated is the state with what an answer told of the vendor's clock, if it did.
func (s *State) dated(c provider.Clock) *State {
	if c.Date.IsZero() {
		return s
	}
	next, skew := *s, c.Skew()
	next.ClockSkew = &skew
	return &next
}

// seen is the state as it is read from storage at a time: without tokens that were issued
// in the future, whose lifetime the clock cannot measure. It has been stepped back since,
// or was another server's.
func (s *State) seen(now time.Time) *State {
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

// Granted is the state with a new grant of the credential's own scope.
func (s *State) Granted(g provider.Grant) *State { return s.granted(ownScope, g) }

// granted is the state with a new grant. A refresh token that replaces the operator's
// is for all scopes.
func (s *State) granted(scope string, g provider.Grant) *State {
	next := *s
	if scope != ownScope && g.Derived {
		next.Grants = with(s.Grants, scope, g)
	} else {
		next.Grant = g
	}
	return &next
}

// sharing is the state with other tokens to share.
func (s *State) sharing(tokens map[string]provider.Token) *State {
	next := *s
	next.Tokens = tokens
	return &next
}

// EndsOthers is whether the exchange of the credential's own scope has ended the token of
// before.
func (s *State) EndsOthers() bool { return s.Tokens[ownScope].InvalidatesPrevious }

// ends is whether the vendor has ended the token of a scope in a state of before.
func (s *State) ends(scope string, token provider.Token) bool {
	next, has := s.Tokens[scope]
	return !has || next.InvalidatesPrevious && next.AccessToken != token.AccessToken
}

// Ended is the state without its tokens, which the vendor takes no more.
func (s *State) Ended() *State {
	next := s.sharing(nil)
	next.Void = s.Number + 1
	return next
}

// revoked is the state with what came of revoking dropped tokens, some of which may be
// left. It is stored with the exchange that follows.
func (s *State) revoked(r *Revocation, left map[string][]provider.Token) *State {
	next := *s
	next.Revocation, next.Dropped = r, left
	return &next
}

// failed is the state after an exchange for a scope that failed. What may be said of
// the scope is not held against the others. Where a narrower scope has the credential
// rejected, the others have a chance first when the vendor may be called again: there
// are vendors who know no better word for a scope that they do not grant.
func (s *State) failed(scope string, e *provider.Error, now time.Time) *State {
	next := *s
	failure := Failure{Kind: e.Kind, Reason: e.Reason, Time: now.Round(0).UTC(), MayBeScope: e.MayBeScope, Widened: e.Widened}
	if e.MayBeScope {
		failure.count(s.Refusals[scope], e)
		next.Refusals = with(s.Refusals, scope, failure)
	} else {
		failure.count(s.Failure, e)
		next.Failure = failure
		if scope != ownScope && e.Kind == provider.Rejected {
			failure.NextAttempt = failure.NextAttempt.Add(rejectedPause)
			next.Refusals = with(s.Refusals, scope, failure)
		}
	}
	next.prune(now)
	return &next
}

// failures are how many exchanges for a scope have failed in a row.
func (s *State) failures(scope string) int {
	return max(s.Failure.Count, s.Refusals[scope].Count)
}

// failing is the state with the failures of an earlier one, which an exchange that yielded
// no token to be had has not ended.
func (s *State) failing(earlier *State) *State {
	next := *s
	next.Failure, next.Refusals = earlier.Failure, earlier.Refusals
	return &next
}

// rejected is whether nothing but a new credential, or another scope, will help those who
// want a scope.
func (s *State) rejected(scope string) bool {
	return s.Failure.final() || s.Refusals[scope].final()
}

// final is whether a person must act, until an exchange succeeds.
func (f Failure) final() bool {
	return f.Count > 0 && (f.Ended || f.Kind == provider.Rejected || f.Kind == provider.Expired)
}

// count is one more failure after the last.
func (f *Failure) count(last Failure, e *provider.Error) {
	f.Count, f.Ended = min(last.Count+1, maxCount-1), last.final()
	f.NextAttempt = f.Time.Add(pause(e, f.Count))
}

// seen is the failure as it is at a time. One of the future, or with an attempt that is further
// away than any pause, was dated by a clock that has been stepped back since: it is no reason
// to wait.
func (f Failure) seen(now time.Time) Failure {
	if f.Time.After(now) || f.NextAttempt.Sub(now) > longestPause {
		f.NextAttempt = time.Time{}
	}
	return f
}

// unusedExpireTime is when the credential expires if it stays unused; zero if that is not
// known, as for one that was exchanged in the future, by a clock that has been stepped back
// since.
func (h Health) unusedExpireTime(now time.Time) time.Time {
	if h.ExchangeTime.After(now) {
		return time.Time{}
	}
	return h.CredentialExpireTime
}

// forgotten is whether a refusal is of a narrower scope that nobody has asked for
// since it might have been: its role may have been mended, or deleted.
func (f Failure) forgotten(scope string, now time.Time) bool {
	return scope != ownScope && now.After(f.seen(now).NextAttempt.Add(refusalMemory))
}

// forgotten is the state without its tokens, which are dropped, and without a reason to
// wait.
func (s *State) forgotten() *State {
	next := *s
	next.Dropped = s.held()
	for scope, tokens := range next.Dropped {
		next.Dropped[scope] = newest(tokens)
	}
	next.Tokens, next.Void = nil, s.Number+1
	return next.retriable()
}

// retriable is the state without a reason to wait. What was said of narrower scopes is
// forgotten, too.
func (s *State) retriable() *State {
	next := *s
	next.Refusals = nil
	next.Failure.NextAttempt = time.Time{}
	if own, refused := s.Refusals[ownScope]; refused {
		own.NextAttempt = time.Time{}
		next.Refusals = with(next.Refusals, ownScope, own)
	}
	return &next
}
