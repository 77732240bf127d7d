package broker

import (
	"context"
	"errors"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Storage has the State of a credential in one entry for what all scopes share (storage.GrantKey),
// and in one entry for each scope (storage.ScopeKey). So no entry grows with the number of scopes,
// and a scope whose entry is too large for storage affects no other scope.
//
// Each entry also has the health of the credential at the time of its write. The entry with the
// highest number has the current health. So an exchange that does not change the grant needs one
// write.

// A header holds the fields common to all entries.
type header struct {
	Generation string `json:"generation"`
	Number     int    `json:"number"`
	Health
}

// A grantEntry is the part of a State that all scopes share.
type grantEntry struct {
	storage.Format
	header
	Grant         provider.Grant `json:"grant,omitzero"`
	DroppedBefore int            `json:"dropped_before,omitempty"`

	// Next is the key of the scope's entry that is written after this one, with the token of the
	// same exchange.
	Next string `json:"next,omitempty"`
}

// Check returns an error for an entry that the engine never writes.
func (e *grantEntry) Check() error {
	if e.DroppedBefore < 0 || e.DroppedBefore > e.Number {
		return errors.New("a count is out of range")
	}
	return e.check()
}

// A scopeEntry is the part of a State that concerns one scope.
type scopeEntry struct {
	storage.Format
	header
	Scope string `json:"scope,omitempty"`
	scopePart
}

// Check returns an error for an entry that the engine never writes.
func (e *scopeEntry) Check() error { return errors.Join(e.check(), e.ScopeFailure.check()) }

// A scopePart is the part of a State that concerns one scope.
type scopePart struct {
	Token        provider.Token   `json:"token,omitzero"`
	Grant        provider.Grant   `json:"grant,omitzero"` // only a derived grant of a narrower scope
	ScopeFailure Failure          `json:"scope_failure,omitzero"`
	Dropped      []provider.Token `json:"dropped,omitempty"`
}

// part returns the part for a scope.
func (s *State) part(scope string) scopePart {
	return scopePart{Token: s.Tokens[scope], Grant: s.Grants[scope], ScopeFailure: s.ScopeFailures[scope], Dropped: s.Dropped[scope]}
}

// withPart returns the state with the part for a scope replaced.
func (s *State) withPart(scope string, p scopePart) *State {
	next := *s
	next.Tokens = withKeyIf(next.Tokens, scope, p.Token, p.Token.AccessToken != "")
	next.Grants = withKeyIf(next.Grants, scope, p.Grant, p.Grant != provider.Grant{})
	next.ScopeFailures = withKeyIf(next.ScopeFailures, scope, p.ScopeFailure, p.ScopeFailure != Failure{})
	next.Dropped = withKeyIf(next.Dropped, scope, p.Dropped, len(p.Dropped) > 0)
	return &next
}

// withKeyIf returns a copy of a map, with the value if isSet, else without the key.
func withKeyIf[V any](m map[string]V, key string, value V, isSet bool) map[string]V {
	if isSet {
		return withKey(m, key, value)
	}
	return withoutKeys(m, func(other string, _ V) bool { return other == key })
}

// withDroppedToken returns the part with its token dropped.
func (p scopePart) withDroppedToken() scopePart {
	if p.Token.AccessToken != "" {
		p.Dropped = newest(append(p.Dropped[:len(p.Dropped):len(p.Dropped)], p.Token))
	}
	p.Token = provider.Token{}
	return p
}

// isEmpty reports whether the part has nothing to store.
func (p scopePart) isEmpty() bool {
	return p.Token.AccessToken == "" && p.Grant == provider.Grant{} && p.ScopeFailure == Failure{} && len(p.Dropped) == 0
}

// A storedEntries holds the state entries of a name.
type storedEntries struct {
	name     string
	grant    *grantEntry // nil if there is none
	scopes   []*scopeEntry
	obsolete []string // keys of entries that are damaged, or of another generation
	damaged  []string // keys of the damaged entries
}

// readEntries reads the state entries of a name. It ignores a damaged entry of a scope, since the
// next exchange replaces it. The error is of type *storage.NewerFormatError or *storage.Error, or
// reports that the grant entry cannot be decoded.
func readEntries(ctx context.Context, s logical.Storage, name string) (storedEntries, error) {
	all := storedEntries{name: name}
	keys, err := storage.Collect(ctx, s, storage.StatePrefix(name))
	if err != nil {
		return all, err
	}
	for _, key := range keys {
		if key == storage.GrantKey(name) {
			all.grant, err = storage.Get[grantEntry](ctx, s, key, "write the credential again")
			if err != nil {
				return all, err
			}
			continue
		}
		entry, err := storage.Get[scopeEntry](ctx, s, key, "the next exchange replaces it")
		switch {
		case storage.IsDamaged(err) || err == nil && entry != nil && storage.ScopeKey(name, entry.Scope) != key:
			all.obsolete, all.damaged = append(all.obsolete, key), append(all.damaged, key)
		case err != nil:
			return all, err
		case entry != nil:
			all.scopes = append(all.scopes, entry)
		}
	}
	return all, nil
}

// applyTo applies the entries to the State that the credential was verified with. It returns the
// result, and what of it is in storage.
func (all storedEntries) applyTo(verified *State) (*State, *storedState) {
	state := *verified
	stored := &storedState{name: all.name, parts: map[string]scopePart{}, obsolete: all.obsolete}
	if slices.Contains(all.damaged, storage.ScopeKey(all.name, ownScope)) {
		state.Tokens = nil // the damaged entry replaced them
	}
	numbers, next, nextNumber := map[string]int{}, "", 0
	note := func(h header) {
		if h.Number > state.Number {
			state.Number, state.Health = h.Number, h.Health
		}
	}
	if c := all.grant; c != nil && c.Generation == state.Generation {
		note(c.header)
		state.Grant, state.DroppedBefore, next, nextNumber = c.Grant, c.DroppedBefore, c.Next, c.Number
	} else if c != nil {
		stored.obsolete = append(stored.obsolete, storage.GrantKey(all.name))
	}
	for _, e := range all.scopes {
		if e.Generation != state.Generation {
			stored.obsolete = append(stored.obsolete, storage.ScopeKey(all.name, e.Scope))
			continue
		}
		note(e.header)
		numbers[e.Scope] = e.Number
		state = *state.withPart(e.Scope, e.scopePart)
	}
	for scope := range state.scopes() {
		p := state.part(scope)
		switch number := numbers[scope]; {
		case number < state.DroppedBefore:
			p = p.withDroppedToken()
		case storage.ScopeKey(all.name, scope) == next && number < nextNumber && p.Token.InvalidatesPrevious:
			// The exchange invalidated this token, and its own token was not stored.
			p.Token, stored.next = provider.Token{}, next
			stored.uncertainParts = withKey(stored.uncertainParts, scope, true)
		default:
			continue
		}
		state = *state.withPart(scope, p)
	}
	for scope := range state.scopes() {
		stored.parts[scope] = state.part(scope)
	}
	stored.grant, stored.droppedBefore, stored.health = state.Grant, state.DroppedBefore, state.Health
	return &state, stored
}

// scopes returns the scopes for which the state has a part.
func (s *State) scopes() map[string]bool {
	all := map[string]bool{}
	addKeys(all, s.Tokens)
	addKeys(all, s.Grants)
	addKeys(all, s.ScopeFailures)
	addKeys(all, s.Dropped)
	return all
}

func addKeys[V any](all map[string]bool, m map[string]V) {
	for key := range m {
		all[key] = true
	}
}

// getState returns the state in storage of a credential that cannot be opened; nil if there is none
// beyond the verified state.
func getState(ctx context.Context, s logical.Storage, name string) (*State, error) {
	all, err := readEntries(ctx, s, name)
	if err != nil {
		return nil, err
	}
	var latest header
	for _, e := range all.scopes {
		if e.Number > latest.Number {
			latest = e.header
		}
	}
	if all.grant != nil {
		latest = all.grant.header
	}
	if latest.Generation == "" {
		return nil, nil
	}
	state, _ := all.applyTo(&State{Generation: latest.Generation})
	return state, nil
}

// putState writes the state of a credential that cannot be opened.
func putState(ctx context.Context, s logical.Storage, name string, state *State) error {
	state = state.withNextNumber()
	if err := storage.Retry(ctx, func() error { return putGrant(ctx, s, name, state, "") }); err != nil {
		return err
	}
	for scope := range state.scopes() {
		if err := storage.Retry(ctx, func() error { return putPart(ctx, s, name, state, scope) }); err != nil {
			return err
		}
	}
	return nil
}

func newHeader(s *State) header {
	return header{Generation: s.Generation, Number: s.Number, Health: s.Health}
}

func putGrant(ctx context.Context, s logical.Storage, name string, state *State, next string) error {
	return storage.Put(ctx, s, storage.GrantKey(name), &grantEntry{header: newHeader(state), Grant: state.Grant, DroppedBefore: state.DroppedBefore, Next: next})
}

// putPart writes the entry of a scope, or deletes it if the part is empty. The entry of the
// credential's own scope stays, since it replaces the verified state.
func putPart(ctx context.Context, s logical.Storage, name string, state *State, scope string) error {
	key, p := storage.ScopeKey(name, scope), state.part(scope)
	if p.isEmpty() && scope != ownScope {
		return storage.Delete(ctx, s, key)
	}
	return storage.Put(ctx, s, key, &scopeEntry{header: newHeader(state), Scope: scope, scopePart: p})
}

// DeleteState deletes the state entries of a name. The error is of type *storage.Error.
func DeleteState(ctx context.Context, s logical.Storage, name string) error {
	keys, err := storage.Collect(ctx, s, storage.StatePrefix(name))
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := storage.Delete(ctx, s, key); err != nil {
			return err
		}
	}
	return nil
}
