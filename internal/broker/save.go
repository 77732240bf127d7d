package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// saveInterval is the pause before a failed write is retried.
	saveInterval = 5 * time.Second

	// saveTimeout bounds the write of a change's result, retries included.
	saveTimeout = 30 * time.Second

	// tidyTimeout bounds how long an exchange writes entries of other scopes. The next exchange
	// writes the rest.
	tidyTimeout = time.Second
)

// A storedState is the last known content of storage for a name. Only the holder of the name's lock
// uses it.
type storedState struct {
	name          string
	grant         provider.Grant
	droppedBefore int
	health        Health
	parts         map[string]scopePart // by scope

	// isUncertain is whether the last write of the grant entry failed but may have succeeded.
	// uncertainParts are the scopes whose entries are in the same condition.
	isUncertain    bool
	uncertainParts map[string]bool

	// next is the key in the grant entry's Next, until that entry has been written.
	next string

	obsolete []string // keys of entries without a meaning
}

// hasGrant reports whether storage has the part of a state that all scopes share.
func (st *storedState) hasGrant(s *State) bool {
	return !st.isUncertain && st.grant == s.Grant && st.droppedBefore == s.DroppedBefore
}

// hasPart reports whether storage has the part of a state for a scope.
func (st *storedState) hasPart(s *State, scope string) bool {
	return !st.uncertainParts[scope] && st.parts[scope].isSame(s.part(scope))
}

// isSame reports whether two parts are equal in storage. Most have not changed at all, and an exchange looks
// at those of all scopes, so the comparison begins with what costs little.
func (p scopePart) isSame(other scopePart) bool {
	if p.Token.AccessToken != other.Token.AccessToken {
		return false
	}
	p.Token.Seen, other.Token.Seen = time.Time{}, time.Time{} // not stored
	return reflect.DeepEqual(p, other) || isSame(p, other)
}

// isSame reports whether two values are equal in storage.
func isSame(a, b any) bool {
	first, err := json.Marshal(a)
	second, otherErr := json.Marshal(b)
	return err == nil && otherErr == nil && bytes.Equal(first, second)
}

// wroteGrant records the result of a write of the grant entry. If the entry drops tokens, it also
// drops those in the entries of scopes.
func (st *storedState) wroteGrant(s *State, next string, err error) {
	st.next = next
	if err != nil {
		st.isUncertain = !st.hasGrant(s)
		return
	}
	st.isUncertain = false
	st.obsolete = slices.DeleteFunc(st.obsolete, func(key string) bool { return key == storage.GrantKey(st.name) })
	if st.droppedBefore < s.DroppedBefore {
		for scope, p := range st.parts {
			st.parts[scope] = p.withDroppedToken()
		}
	}
	st.grant, st.droppedBefore, st.health = s.Grant, s.DroppedBefore, s.Health
}

// wrotePart records the result of a write of a scope's entry.
func (st *storedState) wrotePart(s *State, scope string, err error) {
	st.uncertainParts = withKeyIf(st.uncertainParts, scope, true, err != nil)
	if err != nil {
		return
	}
	st.parts = withKeyIf(st.parts, scope, s.part(scope), !s.part(scope).isEmpty())
	if s.hasEntry(scope) {
		st.health = s.Health
	}
	if st.next == storage.ScopeKey(st.name, scope) {
		st.next = ""
	}
}

// hasEntry reports whether the state has an entry for a scope. Such an entry also has the health of
// the credential.
func (s *State) hasEntry(scope string) bool { return scope == ownScope || !s.part(scope).isEmpty() }

// save writes a state to storage, and then shows it to readers. It first writes the grant entry if
// the grant is new, as with a rotated refresh token, and then the entry of the scope. If either
// write fails, save keeps in memory what is not stored, since it may be the only refresh token that
// works, and returns the error, of type *storage.Error. It also tries to write the entries of other
// scopes. The caller holds the lock of the name. (Guarantee 3.)
func (b *Broker) save(ctx context.Context, s logical.Storage, r *record, snap snapshot, scope string, next *State) (snapshot, error) {
	next = next.withNextNumber()
	defer func() {
		if recovered := recover(); recovered != nil { // keep the vendor's answer
			r.keepUnsaved(s, next, ErrPanicked)
			panic(recovered)
		}
	}()
	err := b.saveGrant(ctx, s, r, scope, next)
	if storage.IsTooLarge(err) && next.Grant.Derived { // the credential can get another grant
		next = next.WithGrant(provider.Grant{Derived: true})
		err = b.saveGrant(ctx, s, r, scope, next)
	}
	if err != nil {
		b.logger(snap.of(scope)).Warn("cannot store the vendor's answer; keeping it in memory", "error", err)
		r.keepUnsaved(s, next, err)
		return snap, err
	}
	unsavedScopes := map[string]unsavedWrite{}
	if snap.unsaved != nil {
		maps.Copy(unsavedScopes, snap.unsaved.scopeWrites)
		delete(unsavedScopes, scope)
	}
	if !r.stored.hasPart(next, scope) {
		var write unsavedWrite
		next, write = b.savePart(ctx, s, r, snap, scope, next)
		if err = write.err; err != nil {
			b.logger(snap.of(scope)).Warn("cannot store the vendor's answer for the scope", "error", err)
			unsavedScopes[scope] = write
		}
	}
	b.saveOthers(ctx, s, r, scope, next, unsavedScopes)
	snap, superseded := r.update(snap.epoch, func(snap *snapshot) {
		for scope, token := range next.Tokens {
			if last := snap.state.Tokens[scope]; token.IssueTime != last.IssueTime && unsavedScopes[scope].err == nil {
				r.noteIssuedLocked(scope, last)
			}
		}
		if storage.IsTooLarge(err) { // it stays too large, so exchange again only for a reader
			delete(r.uses, scope)
		}
		snap.replaceState(next, s, unsavedScopes)
	})
	if err == nil {
		return snap, superseded
	}
	if superseded != nil {
		r.keepUnsaved(s, next, err)
	}
	return snap, err
}

// withNextNumber returns the state with the next sequence number.
func (s *State) withNextNumber() *State {
	next := *s
	next.Number++
	return &next
}

// saveGrant writes the grant entry if it has changed, or if only the health of the credential has
// changed and no other entry is written with it.
func (b *Broker) saveGrant(ctx context.Context, s logical.Storage, r *record, scope string, next *State) error {
	writesPart := !r.stored.hasPart(next, scope)
	if r.stored.hasGrant(next) && (writesPart && next.hasEntry(scope) || isSame(r.stored.health, next.Health)) {
		return nil
	}
	follows := r.stored.next
	if writesPart {
		follows = storage.ScopeKey(r.name, scope)
	}
	err := storage.Retry(ctx, func() error { return putGrant(ctx, s, r.name, next, follows) })
	r.stored.wroteGrant(next, follows, err)
	return err
}

// savePart writes the entry of a scope. If the entry is too large for storage, it leaves out
// dropped tokens, oldest first, and then the new token. It returns the resulting state.
func (b *Broker) savePart(ctx context.Context, s logical.Storage, r *record, snap snapshot, scope string, next *State) (*State, unsavedWrite) {
	write := func() error {
		err := storage.Retry(ctx, func() error { return putPart(ctx, s, r.name, next, scope) })
		r.stored.wrotePart(next, scope, err)
		return err
	}
	err := write()
	for storage.IsTooLarge(err) && len(next.Dropped[scope]) > 0 {
		p := next.part(scope)
		b.logger(snap.of(scope)).Warn("a dropped token will not be revoked: its storage entry is too large", "expire_time", FormatTime(p.Dropped[0].ExpireTime))
		p.Dropped = p.Dropped[1:]
		next = next.withPart(scope, p)
		err = write()
	}
	switch {
	case err == nil:
		return next, unsavedWrite{}
	case !storage.IsTooLarge(err):
		return next, newUnsavedWrite(err)
	}
	next = next.withPartOf(snap.state, scope)
	if !r.stored.hasPart(next, scope) {
		_ = write()
	}
	// For a while, the vendor would return the same token.
	return next, unsavedWrite{err: err, retryTime: time.Now().Add(rejectedBackOff)}
}

// withPartOf returns the state with a scope's part of the last state, which undoes an exchange for
// the scope except for a grant that all scopes share. It has no token if the exchange has
// invalidated the last one.
func (s *State) withPartOf(last *State, scope string) *State {
	p := last.part(scope)
	p.Dropped = s.Dropped[scope]
	if s.Tokens[scope].InvalidatesPrevious {
		p.Token = provider.Token{}
	}
	return s.withPart(scope, p)
}

// saveOthers tries once to write all other parts that storage does not have. It adds failed writes
// to unsavedScopes if they have a new token or grant.
func (b *Broker) saveOthers(ctx context.Context, s logical.Storage, r *record, scope string, next *State, unsavedScopes map[string]unsavedWrite) {
	ctx, cancel := context.WithTimeout(ctx, tidyTimeout)
	defer cancel()
	others := next.scopes()
	addKeys(others, r.stored.parts)
	addKeys(others, r.stored.uncertainParts)
	delete(others, scope)
	for _, other := range slices.Sorted(maps.Keys(others)) {
		if r.stored.hasPart(next, other) {
			continue
		}
		had, has := r.stored.parts[other], next.part(other)
		err := ctx.Err()
		if err == nil {
			err = putPart(ctx, s, r.name, next, other)
			r.stored.wrotePart(next, other, err)
		}
		isNewToken := has.Token.AccessToken != "" && has.Token.AccessToken != had.Token.AccessToken
		isNewGrant := has.Grant != (provider.Grant{}) && has.Grant != had.Grant
		switch {
		case err == nil:
			delete(unsavedScopes, other)
		case isNewToken || isNewGrant:
			unsavedScopes[other] = newUnsavedWrite(err)
		}
	}
	written := map[string]bool{}
	for scope := range next.scopes() {
		written[storage.ScopeKey(r.name, scope)] = true
	}
	r.stored.obsolete = slices.DeleteFunc(r.stored.obsolete, func(key string) bool {
		return written[key] || ctx.Err() == nil && storage.Delete(ctx, s, key) == nil
	})
}

// saveFailure writes a state after a failed exchange that changed neither grant nor token. If the
// write fails, the state is only in memory. Its loss costs at most one early attempt.
func (b *Broker) saveFailure(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot, next *State, failure *provider.Error) (snapshot, error) {
	next = next.withNextNumber()
	var err error
	if r.stored.hasPart(next, v.scope) || !next.hasEntry(v.scope) {
		err = putGrant(ctx, s, r.name, next, r.stored.next)
		r.stored.wroteGrant(next, r.stored.next, err)
	} else {
		err = putPart(ctx, s, r.name, next, v.scope)
		r.stored.wrotePart(next, v.scope, err)
	}
	if err != nil {
		b.logger(v).Warn("cannot store the failure", "error", err)
	}
	return r.update(v.epoch, func(snap *snapshot) {
		var unsavedScopes map[string]unsavedWrite
		if snap.unsaved != nil {
			unsavedScopes = snap.unsaved.scopeWrites
		}
		snap.replaceState(next, s, unsavedScopes)
		snap.isAhead = err != nil
		r.noteRejectedLocked(v.scope, failure)
	})
}

// saveUnsavedScope writes the unsaved state that a scope needs. If storage accepts other writes but
// not this one, and the state has no valid token and no new grant, saveUnsavedScope discards it.
func (b *Broker) saveUnsavedScope(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot) (snapshot, error) {
	snap, err := b.save(ctx, s, r, v.snapshot, v.scope, v.unsaved.state)
	if err == nil {
		return snap, nil
	}
	if snap = r.get(); snap.unsaved == nil || snap.unsaved.grantWrite != nil {
		return snap, err
	}
	latest := snap.unsaved.state.part(v.scope)
	isNeeded := time.Now().Before(latest.Token.ExpireTime) || latest.Grant != snap.state.Grants[v.scope]
	if isNeeded || storage.Probe(ctx, s) != nil {
		return snap, err
	}
	b.logger(v).Warn("discarding the vendor's answer: storage does not accept it, and its token has expired", "error", err)
	return r.update(snap.epoch, func(snap *snapshot) {
		unsavedScopes := maps.Clone(snap.unsaved.scopeWrites)
		delete(unsavedScopes, v.scope)
		snap.replaceState(snap.unsaved.state.withPartOf(snap.state, v.scope), s, unsavedScopes)
	})
}
