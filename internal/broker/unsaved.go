package broker

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// An unsaved is what storage does not have yet of a name.
type unsaved struct {
	// state is newer than that in storage. storage is where it must be written.
	state   *State
	storage logical.Storage

	// grant and droppedBefore are those in storage before the failed write.
	grant         provider.Grant
	droppedBefore int

	// grantWrite is the failed write of the grant entry, which every scope needs. scopeWrites are
	// the failed writes of scopes' entries.
	grantWrite  *failedWrite
	scopeWrites map[string]failedWrite
}

// A failedWrite is a write that storage did not accept.
type failedWrite struct {
	err       error
	retryTime time.Time // when to retry it
}

// newFailedWrite returns a write that failed now.
func newFailedWrite(err error) failedWrite {
	return failedWrite{err: err, retryTime: time.Now().Add(saveInterval)}
}

// pendingFor returns the write that a scope needs before another exchange; nil if none.
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

// rebase returns what must still be stored after a newer state was read from storage. It leaves out
// what the newer state supersedes, and merges the failed writes of scopes into it. It returns nil
// if nothing is left, or if another node or an operator has written something that must not be
// overwritten.
func (u *unsaved) rebase(state *State) *unsaved {
	if u.state.Generation != state.Generation {
		return nil
	}
	next, merged := *u, *u.state
	if u.grantWrite != nil {
		isNewer := state.Exchanges > u.state.Exchanges
		isOther := state.Grant != u.grant || state.DroppedBefore != u.droppedBefore // but not if the failed write has succeeded
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

// keepUnsaved keeps a state in memory that storage does not have. If the state is nil, nothing is
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

// replaceState sets the state after a write. Readers do not see the parts of scopes whose writes
// failed.
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

// removeStoredWrites removes the failed writes of scopes whose parts are in storage by now.
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

// amend changes both the visible and the unsaved state.
func (snap *snapshot) amend(f func(*State) *State) {
	snap.state = f(snap.state)
	if snap.unsaved != nil {
		next := *snap.unsaved
		next.state = f(next.state)
		snap.unsaved = &next
	}
}
