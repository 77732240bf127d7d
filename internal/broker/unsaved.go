package broker

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// unsaved is what storage does not have yet of a name.
type unsaved struct {
	// state is newer than what storage has, and storage is where it belongs.
	state   *State
	storage logical.Storage

	// grant and droppedBefore are what storage had for all scopes before.
	grant         provider.Grant
	droppedBefore int

	// grantWrite is the failed write of the grant's entry, without which no scope can go
	// on; scopes are the failed writes of the entries of scopes.
	grantWrite  *failedWrite
	scopeWrites map[string]failedWrite
}

// A failedWrite is one that storage has refused.
type failedWrite struct {
	err       error
	retryTime time.Time // when to try it again
}

// newFailedWrite returns a write that has failed now.
func newFailedWrite(err error) failedWrite {
	return failedWrite{err: err, retryTime: time.Now().Add(saveInterval)}
}

// pendingFor returns the write without which a scope cannot go on; nil if none.
func (u *unsaved) pendingFor(scope string) *failedWrite {
	if u == nil {
		return nil
	}
	if u.grantWrite != nil {
		return u.grantWrite
	}
	if w, isPending := u.scopeWrites[scope]; isPending {
		return &w
	}
	return nil
}

// err returns why something is unsaved; nil if nothing is.
func (u *unsaved) err() error {
	if u == nil {
		return nil
	}
	if w := u.pendingFor(ownScope); w != nil {
		return w.err
	}
	for _, scope := range slices.Sorted(maps.Keys(u.scopeWrites)) {
		return u.scopeWrites[scope].err
	}
	return nil
}

// rebase returns what is still to be stored once a newer state has been read from storage: what the
// new state supersedes is dropped, and the failed writes of scopes are merged into it. It returns
// nil if nothing is left, or if another node or an operator has written what must not be
// overwritten.
func (u *unsaved) rebase(state *State) *unsaved {
	if u.state.Generation != state.Generation {
		return nil
	}
	next, merged := *u, *u.state
	if u.grantWrite != nil {
		isNewer := state.Exchanges > u.state.Exchanges
		isOther := state.Grant != u.grant || state.DroppedBefore != u.droppedBefore // unless it is this very write
		if isNewer || isOther && (state.Grant != u.state.Grant || state.DroppedBefore != u.state.DroppedBefore) {
			return nil
		}
	} else {
		merged, next.scopeWrites = *state, map[string]failedWrite{}
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

// keepUnsaved keeps a state in memory that storage does not have; with a nil state, nothing is
// unsaved any more.
func (r *record) keepUnsaved(s logical.Storage, state *State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.unsaved = nil
	if state != nil {
		failed := newFailedWrite(err)
		r.current.unsaved = &unsaved{state: state, storage: s, grantWrite: &failed}
		if r.stored != nil {
			r.current.unsaved.grant, r.current.unsaved.droppedBefore = r.stored.grant, r.stored.droppedBefore
		}
	}
}

// replaceState sets the state after a write, but for the scopes whose entries storage has
// refused. Those stay as readers have seen them.
func (snap *snapshot) replaceState(next *State, s logical.Storage, failedScopes map[string]failedWrite) {
	visible := next
	for scope := range failedScopes {
		visible = visible.withPart(scope, snap.state.part(scope))
	}
	snap.state, snap.unsaved = visible, nil
	if len(failedScopes) > 0 {
		snap.unsaved = &unsaved{state: next, storage: s, scopeWrites: failedScopes}
	}
}

// removeStoredWrites drops the failed writes of scopes of which nothing is left to be written.
func (snap *snapshot) removeStoredWrites(stored *storedState) {
	if snap.unsaved == nil || snap.unsaved.grantWrite != nil {
		return
	}
	next := *snap.unsaved
	next.scopeWrites = maps.Clone(next.scopeWrites)
	maps.DeleteFunc(next.scopeWrites, func(scope string, _ failedWrite) bool { return stored.hasPart(next.state, scope) })
	if snap.unsaved = &next; len(next.scopeWrites) == 0 {
		snap.unsaved = nil
	}
}

// amend changes what readers see and what is unsaved.
func (snap *snapshot) amend(f func(*State) *State) {
	snap.state = f(snap.state)
	if snap.unsaved != nil {
		next := *snap.unsaved
		next.state = f(next.state)
		snap.unsaved = &next
	}
}
