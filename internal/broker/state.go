package broker

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// StoragePrefix is where the engine keeps what it found out, by name.
const StoragePrefix = "state/"

// stateVersion is the format of State in storage.
const stateVersion = 1

// A State is what the engine found out about one credential: one entry in storage,
// one write an exchange. States are never changed, only replaced.
type State struct {
	Version int `json:"version"`

	// Generation is the write of the credential that this belongs to. Under any
	// other the state is void, which is how one write to the configuration ends
	// all that came before.
	Generation string `json:"generation"`

	// Tokens are the access tokens by scope, "" being the credential's own.
	Tokens map[string]provider.Token `json:"tokens,omitempty"`

	// Grant is what the last exchange left for the next.
	Grant provider.Grant `json:"grant,omitzero"`

	// Exchanges counts those that succeeded, ExchangeTime is when the last did.
	Exchanges    int       `json:"exchanges,omitempty"`
	ExchangeTime time.Time `json:"exchange_time,omitzero"`

	// CredentialExpireTime is when the credential dies if it stays unused; zero if
	// that is not known.
	CredentialExpireTime time.Time `json:"credential_expire_time,omitzero"`

	// ClockSkew is how far the vendor's clock is ahead of ours, at the least; nil if
	// no answer has told.
	ClockSkew *time.Duration `json:"clock_skew,omitempty"`

	// Failure is the last exchange that failed.
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
}

// ownScope is the key of the token with the credential's own scope.
const ownScope = ""

func (s *State) token() provider.Token { return s.Tokens[ownScope] }

// Unverified is what is known of a credential that has never been exchanged.
func Unverified(c *Credential, last provider.Grant) *State {
	return &State{Version: stateVersion, Generation: c.Generation, Grant: last}
}

// succeeded is the state after an exchange.
func (s *State) succeeded(c *Credential, a *provider.Answer, token provider.Token) *State {
	next := *s
	next.Tokens = maps.Clone(s.Tokens)
	if next.Tokens == nil {
		next.Tokens = map[string]provider.Token{}
	}
	next.Tokens[ownScope] = token
	if a.Grant != nil {
		next.Grant = *a.Grant
	}
	next.Exchanges++
	next.ExchangeTime = token.IssueTime
	switch idle := c.Vendor.Idle(); {
	case a.Final:
		next.CredentialExpireTime = token.ExpireTime
	case idle > 0:
		next.CredentialExpireTime = token.IssueTime.Add(idle)
	}
	next.Failure.Count, next.Failure.NextAttempt = 0, time.Time{}
	return &next
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

// follows is whether a state is of the same credential as another, and not older.
func (s *State) follows(other *State) bool {
	return s.Generation == other.Generation && s.Exchanges >= other.Exchanges
}

// Granted is the state with a new grant.
func (s *State) Granted(g provider.Grant) *State {
	next := *s
	next.Grant = g
	return &next
}

// Under is the state as one of another write of the credential.
func (s *State) Under(generation string) *State {
	next := *s
	next.Generation = generation
	return &next
}

// failed is the state after an exchange that failed.
func (s *State) failed(e *provider.Error, now time.Time) *State {
	next := *s
	next.Failure = Failure{
		Kind:   e.Kind,
		Reason: e.Reason,
		Time:   now.Round(0).UTC(),
		Count:  s.Failure.Count + 1,
	}
	next.Failure.NextAttempt = next.Failure.Time.Add(pause(e, next.Failure.Count))
	return &next
}

// forgotten is the state without its tokens and without a reason to wait.
func (s *State) forgotten() *State {
	next := *s
	next.Tokens = nil
	next.Failure.NextAttempt = time.Time{}
	return &next
}

// StorageError is a failure of Vault's storage, not of the vendor.
type StorageError struct{ Err error }

func (e *StorageError) Error() string { return "storage: " + e.Err.Error() }
func (e *StorageError) Unwrap() error { return e.Err }

func getState(ctx context.Context, s logical.Storage, name string) (*State, error) {
	stored, err := s.Get(ctx, StoragePrefix+name)
	if err != nil {
		return nil, &StorageError{err}
	}
	if stored == nil {
		return nil, nil
	}
	state := &State{}
	if err := stored.DecodeJSON(state); err != nil {
		// The decoder's error may quote what it read. It is not a failure of storage:
		// a write to the configuration mends it.
		return nil, errors.New(StoragePrefix + name + " cannot be decoded: write the credential anew")
	}
	return state, nil
}

func putState(ctx context.Context, s logical.Storage, name string, state *State) error {
	stored, err := logical.StorageEntryJSON(StoragePrefix+name, state)
	if err != nil {
		return &StorageError{err}
	}
	if err := s.Put(ctx, stored); err != nil {
		return &StorageError{err}
	}
	return nil
}

// DeleteState removes what the engine found out about a name.
func DeleteState(ctx context.Context, s logical.Storage, name string) error {
	if err := s.Delete(ctx, StoragePrefix+name); err != nil {
		return &StorageError{err}
	}
	return nil
}
