package broker

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// An unsavedState is what storage does not have yet of a name.
type unsavedState struct {
	// state is newer than that in storage. storage is where it must be written.
	state   *State
	storage logical.Storage

	// grant and droppedBefore are those in storage before the unsaved write.
	grant         provider.Grant
	droppedBefore int

	// grantWrite is the unsaved write of the grant entry, which every scope needs. scopeWrites are
	// the unsaved writes of scopes' entries.
	grantWrite  *unsavedWrite
	scopeWrites map[string]unsavedWrite
}

// An unsavedWrite is a write that storage did not accept.
type unsavedWrite struct {
	err       error
	retryTime time.Time // when to retry it
}

// newUnsavedWrite returns a write that failed now.
func newUnsavedWrite(err error) unsavedWrite {
	return unsavedWrite{err: err, retryTime: time.Now().Add(saveInterval)}
}

// writeFor returns the write that a scope needs before another exchange; nil if none.
func (u *unsavedState) writeFor(scope string) *unsavedWrite {
	if u == nil {
		return nil
	}
	if u.grantWrite != nil {
		return u.grantWrite
	}
	if w, isUnsaved := u.scopeWrites[scope]; isUnsaved {
		return &w
	}
	return nil
}

// err returns why something is unsaved; nil if nothing is.
func (u *unsavedState) err() error {
	if u == nil {
		return nil
	}
	if w := u.writeFor(ownScope); w != nil {
		return w.err
	}
	for _, scope := range slices.Sorted(maps.Keys(u.scopeWrites)) {
		return u.scopeWrites[scope].err
	}
	return nil
}

// rebase returns what must still be stored after a newer state was read from storage. It leaves out
// what the newer state supersedes, and merges the unsaved writes of scopes into it. It returns nil
// if nothing is left, or if another node or an operator has written something that must not be
// overwritten.
func (u *unsavedState) rebase(state *State) *unsavedState {
	if u.state.Generation != state.Generation {
		return nil
	}
	next, merged := *u, *u.state
	if u.grantWrite != nil {
		isNewer := state.Exchanges > u.state.Exchanges
		isOther := state.Grant != u.grant || state.DroppedBefore != u.droppedBefore // but not if the unsaved write has succeeded
		if isNewer || isOther && (state.Grant != u.state.Grant || state.DroppedBefore != u.state.DroppedBefore) {
			return nil
		}
	} else {
		merged, next.scopeWrites = *state, map[string]unsavedWrite{}
		for scope, w := range u.scopeWrites {
			p := u.state.part(scope)
			if u.state.Number < state.DroppedBefore || state.Tokens[scope].IssueTime.After(p.Token.IssueTime) {
				continue
			}
			merged, next.scopeWrites[scope] = *merged.withPart(scope, p), w
		}
		if len(next.scopeWrites) == 0 {
			return nil
		}
	}
	merged.Number = max(u.state.Number, state.Number)
	next.state = &merged
	return &next
}

// keepUnsaved keeps a state in memory that storage does not have. If the state is nil, nothing is
// unsaved any more.
func (r *record) keepUnsaved(s logical.Storage, state *State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.unsaved = nil
	r.touchLocked()
	if state != nil {
		write := newUnsavedWrite(err)
		r.current.unsaved = &unsavedState{state: state, storage: s, grantWrite: &write}
		if r.stored != nil {
			r.current.unsaved.grant, r.current.unsaved.droppedBefore = r.stored.grant, r.stored.droppedBefore
		}
	}
}

// replaceState sets the state after a write. Readers do not see the parts of unsavedScopes.
func (snap *snapshot) replaceState(next *State, s logical.Storage, unsavedScopes map[string]unsavedWrite) {
	visible := next
	for scope := range unsavedScopes {
		visible = visible.withPart(scope, snap.state.part(scope))
	}
	snap.state, snap.unsaved, snap.isAhead = visible, nil, false
	if len(unsavedScopes) > 0 {
		snap.unsaved = &unsavedState{state: next, storage: s, scopeWrites: unsavedScopes}
	}
}

// removeStoredWrites removes the unsaved writes of scopes whose parts are in storage by now.
func (snap *snapshot) removeStoredWrites(stored *storedState) {
	if snap.unsaved == nil || snap.unsaved.grantWrite != nil {
		return
	}
	next := *snap.unsaved
	next.scopeWrites = maps.Clone(next.scopeWrites)
	maps.DeleteFunc(next.scopeWrites, func(scope string, _ unsavedWrite) bool { return stored.hasPart(next.state, scope) })
	if snap.unsaved = &next; len(next.scopeWrites) == 0 {
		snap.unsaved = nil
	}
}

// amend changes both the visible and the unsaved state.
func (snap *snapshot) amend(f func(*State) *State) {
	snap.state = f(snap.state)
	if snap.unsaved != nil {
		next := *snap.unsaved
		next.state = f(next.state)
		snap.unsaved = &next
	}
}
