package broker

import (
	"context"
	"errors"
	"maps"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// StoragePrefix is where the engine keeps what it found out, by name.
const StoragePrefix = "state/"

// stateVersion is the format of State in storage.
const stateVersion = 1

// A State is what the engine found out about one credential. States are never
// changed, only replaced.
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
}

// ownScope is the key of the token with the credential's own scope.
const ownScope = ""

// StorageError is a failure of Vault's storage, not of the vendor.
type StorageError struct{ Err error }

func (e *StorageError) Error() string { return "storage: " + e.Err.Error() }
func (e *StorageError) Unwrap() error { return e.Err }

// with is the state after an exchange.
func (s *State) with(token provider.Token, grant *provider.Grant) *State {
	next := *s
	next.Tokens = maps.Clone(s.Tokens)
	if next.Tokens == nil {
		next.Tokens = map[string]provider.Token{}
	}
	next.Tokens[ownScope] = token
	if grant != nil {
		next.Grant = *grant
	}
	return &next
}

// current loads what storage has of a name into memory, if it is not there yet.
func (b *Broker) current(ctx context.Context, s logical.Storage, e *entry) (*State, error) {
	credential, state, epoch := e.snapshot()
	if credential != nil {
		return state, nil
	}
	credential, err := b.load(ctx, s, e.name)
	if err != nil {
		return nil, err
	}
	if credential == nil {
		return nil, ErrUnknown
	}
	state, err = getState(ctx, s, e.name)
	if err != nil {
		return nil, err
	}
	if state == nil || state.Generation != credential.Generation {
		state = credential.Verified
	}
	if state == nil {
		state = &State{Version: stateVersion, Generation: credential.Generation}
	}
	return state, e.keep(credential, state, epoch)
}

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
