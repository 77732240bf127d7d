package broker

import (
	"context"
	"iter"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A Status is how a credential is doing, without a secret.
type Status struct {
	Provider string

	// State is "unused" (never exchanged), "ok", "degraded" (the last exchange failed,
	// or could not be stored, but readers get a good token) or "failed" (some do not).
	State string

	// Unusable is whether the credential is damaged, of a newer engine, or without its key
	// pair. Nothing else is known of one, and only Statuses tell of it.
	Unusable bool

	ExpireTime           time.Time // of the token; zero if there is none
	ExchangeTime         time.Time // of the last that succeeded
	Exchanges            int
	Failure              Failure // the last, of whatever scope; of time zero if there was none
	OwnFailure           Failure // the last that concerns the credential's own scope
	Rejected             bool    // whether nothing but a new credential will help
	CredentialExpireTime time.Time
	CredentialWriteTime  time.Time
	SecretExpireTime     time.Time      // as the operator says; zero if they have not
	Description          string         // the operator's
	ClockSkew            *time.Duration // nil if no answer has told

	// StorageError is why something that the vendor answered is not in storage; nil if all
	// is.
	StorageError error

	// Revocation is the last attempt at revoking dropped tokens; nil if there was none.
	Revocation *Revocation

	// Roles are, by name, the failures of exchanges that count against a dedicated role only;
	// nil if there are none.
	Roles map[string]Failure

	// Scopes are the narrower scopes that roles have asked for; nil if there are none.
	Scopes map[string]ScopeStatus
}

// A ScopeStatus is how a narrower scope is doing.
type ScopeStatus struct {
	ExpireTime time.Time // of the token; zero if there is none
	Refusal    Failure   // of kind Rejected; of count zero if there was none
	Rejected   bool      // whether nothing but another scope, or a new credential, will help

	// StorageError is why the scope's token is not in storage; nil if it is.
	StorageError error
}

// Statuses tell how the credentials are doing that are in memory, by name. No lock is held
// meanwhile.
func (b *Broker) Statuses() iter.Seq2[string, *Status] {
	return func(yield func(string, *Status) bool) {
		now := time.Now()
		for _, e := range b.entries() {
			var s *Status
			switch m := e.look(); {
			case m.credential != nil:
				s = m.status(now)
			case m.unusable:
				s = &Status{Unusable: true}
			default:
				continue
			}
			if !yield(e.name, s) {
				return
			}
		}
	}
}

// An Expiry is when a credential expires: if it stays unused, and by the date that the
// operator gave for its secret. A time is zero if it is not known, or if the credential is
// gone.
type Expiry struct {
	Provider string
	Unused   time.Time
	Secret   time.Time
}

// Expiries tell when the credentials die, by name, but for those that have yet to be
// loaded. No lock is held meanwhile.
func (b *Broker) Expiries() iter.Seq2[string, Expiry] {
	return func(yield func(string, Expiry) bool) {
		for _, e := range b.entries() {
			var x Expiry
			switch m := e.look(); {
			case m.credential != nil:
				x = Expiry{m.credential.Provider, m.state.unusedExpireTime(time.Now()), m.credential.Expires}
			case !m.absent:
				continue
			}
			if !yield(e.name, x) {
				return
			}
		}
	}
}

// Status tells how the named credential is doing. It never calls the vendor, and
// waits for nobody who does.
func (b *Broker) Status(ctx context.Context, s logical.Storage, name string) (*Status, error) {
	m, err := b.lookup(ctx, s, name)
	if err != nil {
		return nil, err
	}
	return m.status(time.Now()), nil
}

func (m memory) status(now time.Time) *Status {
	s := &Status{
		Provider:             m.credential.Provider,
		ExpireTime:           m.view(ownScope).token().At(now).ExpireTime,
		ExchangeTime:         m.state.ExchangeTime,
		Exchanges:            m.state.Exchanges,
		Failure:              m.state.Failure.seen(now),
		OwnFailure:           m.view(ownScope).failure(now),
		Rejected:             m.state.rejected(ownScope),
		CredentialExpireTime: m.state.unusedExpireTime(now),
		CredentialWriteTime:  m.credential.WriteTime,
		SecretExpireTime:     m.credential.Expires,
		Description:          m.credential.About,
		ClockSkew:            m.state.ClockSkew,
		Revocation:           m.state.Revocation,
	}
	s.StorageError = m.unsaved.err()
	s.note(m, now)
	return s
}

func (s *Status) scope(scope string, is ScopeStatus) {
	if s.Scopes == nil {
		s.Scopes = map[string]ScopeStatus{}
	}
	s.Scopes[scope] = is
}

// note notes how the scopes and the dedicated roles are doing. Readers are without a token if
// a scope that was rejected, or whose token storage does not take, has none, if none has one
// that a failure of the credential concerns, or if they are a dedicated role's whose last
// exchange failed.
func (s *Status) note(m memory, now time.Time) {
	failing, good, without := s.Failure.Count > 0 || s.StorageError != nil, false, false
	scopes := m.state.scopes()
	if m.unsaved != nil {
		addKeys(scopes, m.unsaved.scopes)
	}
	for scope := range scopes {
		v := m.view(scope)
		token, isGood := v.token(), leaseTTL(v.token(), now) > 0
		good = good || isGood
		is := ScopeStatus{ExpireTime: token.At(now).ExpireTime}
		if w := v.unwritten(); w != nil {
			is.StorageError = w.err
			_, isOf := m.unsaved.scopes[scope]
			wasGood := leaseTTL(m.state.Tokens[scope], now) > 0 // and the vendor has ended it
			without = without || !isGood && (isOf || wasGood || scope == ownScope)
		}
		if refusal := m.state.Refusals[scope].seen(now); refusal != (Failure{}) && !refusal.forgotten(scope, now) {
			failing, without = true, without || !isGood
			if refusal.Time.After(s.Failure.Time) || s.Failure.Count == 0 {
				s.Failure = refusal
			}
			is.Refusal, is.Rejected = refusal, refusal.final()
		}
		if scope != ownScope && (is.Refusal != (Failure{}) || is.StorageError != nil || m.state.Tokens[scope].AccessToken != "") {
			s.scope(scope, is)
		}
	}
	for role, failure := range m.dedicated {
		failure = failure.seen(now)
		if now.After(failure.NextAttempt.Add(refusalMemory)) {
			continue // nobody has asked since
		}
		failing, without = true, true
		if failure.Time.After(s.Failure.Time) || s.Failure.Count == 0 {
			s.Failure = failure
		}
		s.Roles = with(s.Roles, role, failure)
	}
	switch {
	case failing && good && !without:
		s.State = "degraded"
	case failing:
		s.State = "failed"
	case s.Exchanges == 0:
		s.State = "unused"
	default:
		s.State = "ok"
	}
}
