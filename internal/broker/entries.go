package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// What the engine knows about a credential has one entry for what all scopes share, and one for
// each scope:
//
//	state/<name>/credential  the grant
//	state/<name>/own         the token of the credential's own scope, and what is of that scope only
//	state/<name>/<SHA-256>   the same of a narrower scope
//
// Each is written by itself, so that no entry grows with the number of scopes, and a scope that
// storage does not take affects no other. Each holds the health of the credential at the time of
// the write. The highest number counts, so that an exchange that leaves the grant as it was is
// one write.
const (
	credentialKey = "credential"
	ownKey        = "own"
)

// scopeKey is the last part of the key of a scope's entry.
func scopeKey(scope string) string {
	if scope == ownScope {
		return ownKey
	}
	sum := sha256.Sum256([]byte(scope))
	return hex.EncodeToString(sum[:])
}

// A header begins each entry.
type header struct {
	Generation string `json:"generation"`
	Number     int    `json:"number"`
	Health
}

// A credentialEntry is what a state has of all scopes.
type credentialEntry struct {
	storage.Format
	header
	Grant provider.Grant `json:"grant,omitzero"`
	Void  int            `json:"void,omitempty"`

	// Next is the key of the entry that is written right after this one, with the token of
	// the same exchange.
	Next string `json:"next,omitempty"`
}

// Check is for storage.Get.
func (e *credentialEntry) Check() error {
	if e.Void < 0 || e.Void > e.Number {
		return errors.New("a count that cannot be")
	}
	return e.check()
}

// A scopeEntry is what a state has of one scope only.
type scopeEntry struct {
	storage.Format
	header
	Scope string `json:"scope,omitempty"`
	part
}

// Check is for storage.Get.
func (e *scopeEntry) Check() error { return errors.Join(e.check(), e.Refusal.check()) }

// A part is what a state has of one scope only.
type part struct {
	Token   provider.Token   `json:"token,omitzero"`
	Grant   provider.Grant   `json:"grant,omitzero"` // a derived one of a narrower scope
	Refusal Failure          `json:"refusal,omitzero"`
	Dropped []provider.Token `json:"dropped,omitempty"`
}

// part is what the state has of a scope.
func (s *State) part(scope string) part {
	return part{Token: s.Tokens[scope], Grant: s.Grants[scope], Refusal: s.Refusals[scope], Dropped: s.Dropped[scope]}
}

// withPart is the state with another part for a scope.
func (s *State) withPart(scope string, p part) *State {
	next := *s
	next.Tokens = setOr(next.Tokens, scope, p.Token, p.Token.AccessToken != "")
	next.Grants = setOr(next.Grants, scope, p.Grant, p.Grant != provider.Grant{})
	next.Refusals = setOr(next.Refusals, scope, p.Refusal, p.Refusal != Failure{})
	next.Dropped = setOr(next.Dropped, scope, p.Dropped, len(p.Dropped) > 0)
	return &next
}

// setOr is a copy of a map with a value, or without the key.
func setOr[V any](m map[string]V, key string, value V, isSet bool) map[string]V {
	if isSet {
		return with(m, key, value)
	}
	return without(m, func(other string, _ V) bool { return other == key })
}

// voided is a part whose token is dropped.
func (p part) voided() part {
	if p.Token.AccessToken != "" {
		p.Dropped = newest(append(p.Dropped[:len(p.Dropped):len(p.Dropped)], p.Token))
	}
	p.Token = provider.Token{}
	return p
}

// isEmpty is whether there is nothing to store.
func (p part) isEmpty() bool {
	return p.Token.AccessToken == "" && p.Grant == provider.Grant{} && p.Refusal == Failure{} && len(p.Dropped) == 0
}

// entries are what storage has below state/<name>/.
type entries struct {
	name       string
	credential *credentialEntry // nil if there is none
	scopes     []*scopeEntry
	litter     []string // keys of those that say nothing: damaged, or of another generation
	damaged    []string // keys of the damaged ones
}

// readEntries reads what storage has of a name. One of a scope that is damaged says no more
// than one that is not there: an exchange replaces it. Its error is of type *storage.NewerFormatError or
// *storage.Error, or says that the credential's entry cannot be decoded.
func readEntries(ctx context.Context, s logical.Storage, name string) (entries, error) {
	all := entries{name: name}
	keys, err := storage.List(ctx, s, storage.StateKey(name, ""))
	if err != nil {
		return all, err
	}
	for _, key := range keys {
		path := storage.StateKey(name, key)
		if key == credentialKey {
			all.credential, err = storage.Get[credentialEntry](ctx, s, path, "write the credential again")
			if err != nil {
				return all, err
			}
			continue
		}
		entry, err := storage.Get[scopeEntry](ctx, s, path, "the next exchange replaces it")
		switch {
		case storage.IsDamaged(err) || err == nil && entry != nil && scopeKey(entry.Scope) != key:
			all.litter, all.damaged = append(all.litter, key), append(all.damaged, path)
		case err != nil:
			return all, err
		case entry != nil:
			all.scopes = append(all.scopes, entry)
		}
	}
	return all, nil
}

// over is the state that the entries make of the one that a credential was verified with,
// and what of it storage has.
func (all entries) over(verified *State) (*State, *stored) {
	state := *verified
	has := &stored{parts: map[string]part{}, litter: all.litter}
	if slices.Contains(all.damaged, storage.StateKey(all.name, ownKey)) {
		state.Tokens = nil // which the damaged entry has taken the place of
	}
	numbers, next, nextNumber := map[string]int{}, "", 0
	note := func(h header) {
		if h.Number > state.Number {
			state.Number, state.Health = h.Number, h.Health
		}
	}
	if c := all.credential; c != nil && c.Generation == state.Generation {
		note(c.header)
		state.Grant, state.Void, next, nextNumber = c.Grant, c.Void, c.Next, c.Number
	} else if c != nil {
		has.litter = append(has.litter, credentialKey)
	}
	for _, e := range all.scopes {
		if e.Generation != state.Generation {
			has.litter = append(has.litter, scopeKey(e.Scope))
			continue
		}
		note(e.header)
		numbers[e.Scope] = e.Number
		state = *state.withPart(e.Scope, e.part)
	}
	for scope := range state.scopes() {
		p := state.part(scope)
		switch number := numbers[scope]; {
		case number < state.Void:
			p = p.voided()
		case scopeKey(scope) == next && number < nextNumber && p.Token.InvalidatesPrevious:
			p.Token, has.next = provider.Token{}, next // which the exchange has ended whose token is not there
			has.tornParts = with(has.tornParts, scope, true)
		default:
			continue
		}
		state = *state.withPart(scope, p)
	}
	for scope := range state.scopes() {
		has.parts[scope] = state.part(scope)
	}
	has.grant, has.void, has.health = state.Grant, state.Void, state.Health
	return &state, has
}

// scopes are those that a state knows something of.
func (s *State) scopes() map[string]bool {
	all := map[string]bool{}
	addKeys(all, s.Tokens)
	addKeys(all, s.Grants)
	addKeys(all, s.Refusals)
	addKeys(all, s.Dropped)
	return all
}

func addKeys[V any](all map[string]bool, m map[string]V) {
	for key := range m {
		all[key] = true
	}
}

// getState is what storage has of the name of a credential that cannot be opened; nil if it
// has nothing beyond what the credential was verified with.
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
	if all.credential != nil {
		latest = all.credential.header
	}
	if latest.Generation == "" {
		return nil, nil
	}
	state, _ := all.over(&State{Generation: latest.Generation})
	return state, nil
}

// putState writes all of a state of a credential that cannot be opened, in place of what
// there is.
func putState(ctx context.Context, s logical.Storage, name string, state *State) error {
	state = state.numbered()
	if err := storage.Retry(ctx, func() error { return putCredential(ctx, s, name, state, "") }); err != nil {
		return err
	}
	for scope := range state.scopes() {
		if err := storage.Retry(ctx, func() error { return putPart(ctx, s, name, state, scope) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) header() header {
	return header{Generation: s.Generation, Number: s.Number, Health: s.Health}
}

func putCredential(ctx context.Context, s logical.Storage, name string, state *State, next string) error {
	return storage.Put(ctx, s, storage.StateKey(name, credentialKey), &credentialEntry{header: state.header(), Grant: state.Grant, Void: state.Void, Next: next})
}

// putPart writes the entry of a scope, or deletes it if there is nothing to store. That of
// the credential's own scope takes the place of what the credential was verified with, and
// so stays.
func putPart(ctx context.Context, s logical.Storage, name string, state *State, scope string) error {
	key, p := storage.StateKey(name, scopeKey(scope)), state.part(scope)
	if p.isEmpty() && scope != ownScope {
		return storage.Delete(ctx, s, key)
	}
	return storage.Put(ctx, s, key, &scopeEntry{header: state.header(), Scope: scope, part: p})
}

// DeleteState removes what the engine found out about a name.
func DeleteState(ctx context.Context, s logical.Storage, name string) error {
	keys, err := storage.Collect(ctx, s, storage.StateKey(name, ""))
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
