package broker

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A Status is how a credential is doing, without a secret.
type Status struct {
	Provider string

	// State is "unused" (never exchanged), "ok", "degraded" (the last exchange failed,
	// or could not be stored, but readers get a good token) or "failed" (some do not).
	State string

	ExpireTime           time.Time // of the token; zero if there is none
	ExchangeTime         time.Time // of the last that succeeded
	Exchanges            int
	Failure              Failure // the last; of time zero if there was none
	Rejected             bool    // whether nothing but a new credential will help
	CredentialExpireTime time.Time
	CredentialWriteTime  time.Time
	ClockSkew            *time.Duration // nil if no answer has told

	// StorageError is why what the vendor last answered is in memory alone; nil if
	// it is not.
	StorageError error

	// Revocation is the last attempt at revoking dropped tokens; nil if there was none.
	Revocation *Revocation

	// Scopes are the narrower scopes that roles have asked for.
	Scopes map[string]ScopeStatus
}

// Statuses tell how the credentials are doing that are in memory, by name.
func (b *Broker) Statuses() map[string]*Status {
	b.mu.RLock()
	defer b.mu.RUnlock()
	now, all := time.Now(), map[string]*Status{}
	for name, e := range b.names {
		if m := e.look(); m.credential != nil {
			all[name] = m.status(now)
		}
	}
	return all
}

// A ScopeStatus is how a narrower scope is doing.
type ScopeStatus struct {
	ExpireTime time.Time // of the token; zero if there is none
	Refusal    Failure   // of kind Rejected; of count zero if there was none
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
		ExpireTime:           m.state.Tokens[ownScope].ExpireTime,
		ExchangeTime:         m.state.ExchangeTime,
		Exchanges:            m.state.Exchanges,
		Failure:              m.state.Failure,
		Rejected:             m.state.Failure.final() || m.state.Refusals[ownScope].final(),
		CredentialExpireTime: m.state.CredentialExpireTime,
		CredentialWriteTime:  m.credential.WriteTime,
		ClockSkew:            m.state.ClockSkew,
		Revocation:           m.state.Revocation,
		Scopes:               map[string]ScopeStatus{},
	}
	if m.unsaved != nil {
		s.StorageError = m.unsavedErr
	}
	s.note(m.state, now)
	return s
}

// note notes how the scopes are doing. Readers are without a token if a scope that
// was rejected has none, or if none has one that a failure of the credential concerns.
func (s *Status) note(state *State, now time.Time) {
	failing, good, without := s.Failure.Count > 0 || s.StorageError != nil, false, false
	for scope, token := range state.Tokens {
		good = good || leaseTTL(token, now) > 0
		if scope != ownScope {
			s.Scopes[scope] = ScopeStatus{ExpireTime: token.ExpireTime}
		}
	}
	for scope, refusal := range state.Refusals {
		if refusal.forgotten(scope, now) {
			continue
		}
		failing = true
		without = without || leaseTTL(state.Tokens[scope], now) == 0
		if refusal.Time.After(s.Failure.Time) || s.Failure.Count == 0 {
			s.Failure = refusal
		}
		if scope != ownScope {
			s.Scopes[scope] = ScopeStatus{ExpireTime: s.Scopes[scope].ExpireTime, Refusal: refusal}
		}
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
