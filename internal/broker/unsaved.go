package broker

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// unsaved is what storage has not got yet of a name.
type unsaved struct {
	// state is newer than what storage has; and in is where it belongs.
	state *State
	in    logical.Storage

	// grant and void are what storage had of all scopes before.
	grant provider.Grant
	void  int

	// credential is what has become of the write of the credential's entry, without which
	// no scope goes on, and scopes are those of the entries of scopes.
	credential *failedWrite
	scopes     map[string]failedWrite
}

// A failedWrite is one that storage has refused.
type failedWrite struct {
	err       error
	retryTime time.Time // not to be tried again before
}

func failedNow(err error) failedWrite {
	return failedWrite{err: err, retryTime: time.Now().Add(saveInterval)}
}

// of is the write that keeps a scope from going on; nil if none does.
func (u *unsaved) of(scope string) *failedWrite {
	if u == nil {
		return nil
	}
	if u.credential != nil {
		return u.credential
	}
	if w, failed := u.scopes[scope]; failed {
		return &w
	}
	return nil
}

// err is why something is unsaved; nil if nothing is.
func (u *unsaved) err() error {
	if u == nil {
		return nil
	}
	if w := u.of(ownScope); w != nil {
		return w.err
	}
	for _, scope := range slices.Sorted(maps.Keys(u.scopes)) {
		return u.scopes[scope].err
	}
	return nil
}

// after is what is still to be stored once a state has been read from storage; nil if another
// node, or an operator, has written since what must not be written over. What is of scopes
// only is laid over what was read.
func (u *unsaved) after(state *State) *unsaved {
	if u.state.Generation != state.Generation {
		return nil
	}
	next, following := *u, *u.state
	if u.credential != nil {
		isNewer := state.Exchanges > u.state.Exchanges
		isOther := state.Grant != u.grant || state.Void != u.void // by another, unless it is this very write
		if isNewer || isOther && (state.Grant != u.state.Grant || state.Void != u.state.Void) {
			return nil
		}
	} else {
		following, next.scopes = *state, map[string]failedWrite{}
		for scope, w := range u.scopes {
			p := u.state.part(scope)
			if u.state.Number < state.Void || state.Tokens[scope].IssueTime.After(p.Token.IssueTime) {
				continue
			}
			following, next.scopes[scope] = *following.withPart(scope, p), w
		}
		if len(next.scopes) == 0 {
			return nil
		}
	}
	following.Number = max(u.state.Number, state.Number)
	next.state = &following
	return &next
}

// hold keeps a state that storage does not have, or none.
func (e *entry) hold(s logical.Storage, state *State, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.unsaved = nil
	if state != nil {
		failed := failedNow(err)
		e.memory.unsaved = &unsaved{state: state, in: s, credential: &failed}
		if e.stored != nil {
			e.memory.unsaved.grant, e.memory.unsaved.void = e.stored.grant, e.stored.void
		}
	}
}

// became has the memory be of a state that was to be stored, but for the scopes whose entries
// storage has refused. Those stay as readers have seen them.
func (m *memory) became(next *State, s logical.Storage, refused map[string]failedWrite) {
	seen := next
	for scope := range refused {
		seen = seen.withPart(scope, m.state.part(scope))
	}
	m.state, m.unsaved = seen, nil
	if len(refused) > 0 {
		m.unsaved = &unsaved{state: next, in: s, scopes: refused}
	}
}

// retry ends the wait after writes of scopes that storage has refused, and of which there is
// nothing left to be written.
func (m *memory) retry(has *stored) {
	if m.unsaved == nil || m.unsaved.credential != nil {
		return
	}
	next := *m.unsaved
	next.scopes = maps.Clone(next.scopes)
	maps.DeleteFunc(next.scopes, func(scope string, _ failedWrite) bool { return has.hasPart(next.state, scope) })
	if m.unsaved = &next; len(next.scopes) == 0 {
		m.unsaved = nil
	}
}

// amend changes what readers see, and what storage has not got yet.
func (m *memory) amend(f func(*State) *State) {
	m.state = f(m.state)
	if m.unsaved != nil {
		next := *m.unsaved
		next.state = f(next.state)
		m.unsaved = &next
	}
}
