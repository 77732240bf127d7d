package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// saveInterval is how long after a failed write it is tried again.
	saveInterval = 5 * time.Second

	// saveTimeout bounds the write of the result of a change, with its retries.
	saveTimeout = 30 * time.Second

	// tidyTimeout bounds how long an exchange writes entries of other scopes than its own. What
	// is left is written by the next exchange.
	tidyTimeout = time.Second
)

// storedState is what storage has of the state of a name, as far as is known. The holder of the
// name's lock uses it.
type storedState struct {
	grant         provider.Grant
	droppedBefore int
	health        Health
	parts         map[string]scopePart // by scope

	// isUncertain is whether the last write of the grant's entry failed, and may have been
	// done all the same; uncertainParts are the scopes whose entries are so.
	isUncertain    bool
	uncertainParts map[string]bool

	// next is the key that the grant's entry names as the one to be written after it, if
	// that entry has not been written since.
	next string

	obsolete []string // keys of entries that have no meaning any more
}

// hasGrant reports whether storage has what a state has for all scopes.
func (d *storedState) hasGrant(s *State) bool {
	return !d.isUncertain && d.grant == s.Grant && d.droppedBefore == s.DroppedBefore
}

// hasPart reports whether storage has what a state has for a scope.
func (d *storedState) hasPart(s *State, scope string) bool {
	return !d.uncertainParts[scope] && isSame(d.parts[scope], s.part(scope))
}

// isSame reports whether two values are the same in storage.
func isSame(a, b any) bool {
	first, err := json.Marshal(a)
	second, otherErr := json.Marshal(b)
	return err == nil && otherErr == nil && bytes.Equal(first, second)
}

// wroteGrant notes the result of a write of the grant's entry. The tokens that it drops
// are dropped in the entries of their scopes, too.
func (d *storedState) wroteGrant(s *State, next string, err error) {
	d.next = next
	if err != nil {
		d.isUncertain = !d.hasGrant(s)
		return
	}
	d.isUncertain = false
	d.obsolete = slices.DeleteFunc(d.obsolete, func(key string) bool { return key == grantKey })
	if d.droppedBefore < s.DroppedBefore {
		for scope, p := range d.parts {
			d.parts[scope] = p.withDroppedToken()
		}
	}
	d.grant, d.droppedBefore, d.health = s.Grant, s.DroppedBefore, s.Health
}

// wrotePart notes the result of a write of the entry of a scope.
func (d *storedState) wrotePart(s *State, scope string, err error) {
	d.uncertainParts = withOrWithout(d.uncertainParts, scope, true, err != nil)
	if err != nil {
		return
	}
	d.parts = withOrWithout(d.parts, scope, s.part(scope), !s.part(scope).isEmpty())
	if s.hasEntry(scope) {
		d.health = s.Health
	}
	if d.next == scopeKey(scope) {
		d.next = ""
	}
}

// hasEntry reports whether a scope has an entry in storage, which also holds the health of the
// credential.
func (s *State) hasEntry(scope string) bool { return scope == ownScope || !s.part(scope).isEmpty() }

// save writes a state to storage, and only then shows it to readers. If the grant is new, as with a
// rotated refresh token, it is written first, in the grant's entry; then the entry of the scope
// is written. If either write fails, save returns the error, of type *storage.Error, and keeps in
// memory what is not stored: it may have the only refresh token that works. The entries of other
// scopes are written as far as storage takes them. The caller holds the lock of the name.
// (Guarantee 3.)
func (b *Broker) save(ctx context.Context, s logical.Storage, e *cacheEntry, snap snapshot, scope string, next *State) (snapshot, error) {
	next = next.withNextNumber()
	defer func() {
		if recovered := recover(); recovered != nil { // keep what the vendor answered
			e.keepUnsaved(s, next, ErrPanicked)
			panic(recovered)
		}
	}()
	err := b.saveGrant(ctx, s, e, scope, next)
	if storage.IsTooLarge(err) && next.Grant.Derived { // the credential can get another
		next = next.WithGrant(provider.Grant{Derived: true})
		err = b.saveGrant(ctx, s, e, scope, next)
	}
	if err != nil {
		b.logger(snap.of(scope)).Warn("cannot store what the vendor answered; it is kept in memory", "error", err)
		e.keepUnsaved(s, next, err)
		return snap, err
	}
	refused := map[string]failedWrite{}
	if snap.unsaved != nil {
		maps.Copy(refused, snap.unsaved.scopes)
		delete(refused, scope)
	}
	if !e.stored.hasPart(next, scope) {
		var failed failedWrite
		next, failed = b.savePart(ctx, s, e, snap, scope, next)
		if err = failed.err; err != nil {
			b.logger(snap.of(scope)).Warn("cannot store what the vendor answered for the scope", "error", err)
			refused[scope] = failed
		}
	}
	b.saveOthers(ctx, s, e, scope, next, refused)
	snap, superseded := e.update(snap.epoch, func(snap *snapshot) {
		for scope, token := range next.Tokens {
			if last := snap.state.Tokens[scope]; token.IssueTime != last.IssueTime && refused[scope].err == nil {
				e.noteIssuedLocked(scope, last)
			}
		}
		if storage.IsTooLarge(err) { // and stays so: exchange again only for a reader
			delete(e.uses, scope)
		}
		snap.replaceState(next, s, refused)
	})
	if err == nil {
		return snap, superseded
	}
	if superseded != nil {
		e.keepUnsaved(s, next, err)
	}
	return snap, err
}

// withNextNumber returns the state as it is to be stored.
func (s *State) withNextNumber() *State {
	next := *s
	next.Number++
	return &next
}

// saveGrant writes the grant's entry, if what all scopes share has changed, or if no
// other entry is to be written that holds the health of the credential.
func (b *Broker) saveGrant(ctx context.Context, s logical.Storage, e *cacheEntry, scope string, next *State) error {
	writesPart := !e.stored.hasPart(next, scope)
	if e.stored.hasGrant(next) && (writesPart && next.hasEntry(scope) || isSame(e.stored.health, next.Health)) {
		return nil
	}
	follows := e.stored.next
	if writesPart {
		follows = scopeKey(scope)
	}
	err := storage.Retry(ctx, func() error { return putGrant(ctx, s, e.name, next, follows) })
	e.stored.wroteGrant(next, follows, err)
	return err
}

// savePart writes the entry of a scope. If it is too large for storage, dropped tokens are let
// go, the oldest first, and then the new token. It returns the state to go on with.
func (b *Broker) savePart(ctx context.Context, s logical.Storage, e *cacheEntry, snap snapshot, scope string, next *State) (*State, failedWrite) {
	write := func() error {
		err := storage.Retry(ctx, func() error { return putPart(ctx, s, e.name, next, scope) })
		e.stored.wrotePart(next, scope, err)
		return err
	}
	err := write()
	for storage.IsTooLarge(err) && len(next.Dropped[scope]) > 0 {
		p := next.part(scope)
		b.logger(snap.of(scope)).Warn("a dropped token is not kept to be revoked, as the entry is too large for storage", "expire_time", FormatTime(p.Dropped[0].ExpireTime))
		p.Dropped = p.Dropped[1:]
		next = next.withPart(scope, p)
		err = write()
	}
	switch {
	case err == nil:
		return next, failedWrite{}
	case !storage.IsTooLarge(err):
		return next, newFailedWrite(err)
	}
	next = next.withPartOf(snap.state, scope)
	if !e.stored.hasPart(next, scope) {
		_ = write()
	}
	// The vendor would answer the same again for a while.
	return next, failedWrite{err: err, retryTime: time.Now().Add(rejectedBackOff)}
}

// withPartOf returns the state without the result of an exchange for a scope, but for the grant
// of all scopes. The token of the earlier state stays, unless the exchange has invalidated it.
func (s *State) withPartOf(earlier *State, scope string) *State {
	p := earlier.part(scope)
	p.Dropped = s.Dropped[scope]
	if s.Tokens[scope].InvalidatesPrevious {
		p.Token = provider.Token{}
	}
	return s.withPart(scope, p)
}

// saveOthers tries once to write whatever else differs from what storage has. Failed writes are
// added to refused if they hold a token or a grant that is new.
func (b *Broker) saveOthers(ctx context.Context, s logical.Storage, e *cacheEntry, scope string, next *State, refused map[string]failedWrite) {
	ctx, cancel := context.WithTimeout(ctx, tidyTimeout)
	defer cancel()
	others := next.scopes()
	addKeys(others, e.stored.parts)
	addKeys(others, e.stored.uncertainParts)
	delete(others, scope)
	for _, other := range slices.Sorted(maps.Keys(others)) {
		if e.stored.hasPart(next, other) {
			continue
		}
		had, has := e.stored.parts[other], next.part(other)
		err := ctx.Err()
		if err == nil {
			err = putPart(ctx, s, e.name, next, other)
			e.stored.wrotePart(next, other, err)
		}
		isNewToken := has.Token.AccessToken != "" && has.Token.AccessToken != had.Token.AccessToken
		isNewGrant := has.Grant != (provider.Grant{}) && has.Grant != had.Grant
		switch {
		case err == nil:
			delete(refused, other)
		case isNewToken || isNewGrant:
			refused[other] = newFailedWrite(err)
		}
	}
	written := map[string]bool{}
	for scope := range next.scopes() {
		written[scopeKey(scope)] = true
	}
	e.stored.obsolete = slices.DeleteFunc(e.stored.obsolete, func(key string) bool {
		return written[key] || ctx.Err() == nil && storage.Delete(ctx, s, storage.StateKey(e.name, key)) == nil
	})
}

// saveFailure writes a state after a failed exchange that changed no grant and no token. If
// storage refuses it, it is only in memory: losing it costs at most one attempt too early.
func (b *Broker) saveFailure(ctx context.Context, s logical.Storage, e *cacheEntry, v scopeSnapshot, next *State, failure *provider.Error) (snapshot, error) {
	next = next.withNextNumber()
	var err error
	if e.stored.hasPart(next, v.scope) || !next.hasEntry(v.scope) {
		err = putGrant(ctx, s, e.name, next, e.stored.next)
		e.stored.wroteGrant(next, e.stored.next, err)
	} else {
		err = putPart(ctx, s, e.name, next, v.scope)
		e.stored.wrotePart(next, v.scope, err)
	}
	if err != nil {
		b.logger(v).Warn("cannot store the failure", "error", err)
	}
	return e.update(v.epoch, func(snap *snapshot) {
		var refused map[string]failedWrite
		if snap.unsaved != nil {
			refused = snap.unsaved.scopes
		}
		snap.replaceState(next, s, refused)
		e.noteRejectedLocked(v.scope, failure)
	})
}

// storePending writes what is unsaved, and without which a scope cannot go on. If storage takes
// writes but not this one, and nothing in it is valid any more, it is dropped instead.
func (b *Broker) storePending(ctx context.Context, s logical.Storage, e *cacheEntry, v scopeSnapshot) (snapshot, error) {
	snap, err := b.save(ctx, s, e, v.snapshot, v.scope, v.unsaved.state)
	if err == nil {
		return snap, nil
	}
	if snap = e.get(); snap.unsaved == nil || snap.unsaved.credential != nil {
		return snap, err
	}
	latest := snap.unsaved.state.part(v.scope)
	isNeeded := time.Now().Before(latest.Token.ExpireTime) || latest.Grant != snap.state.Grants[v.scope]
	if isNeeded || storage.Probe(ctx, s) != nil {
		return snap, err
	}
	b.logger(v).Warn("what the vendor answered is dropped: storage does not take it, and its token has expired", "error", err)
	return e.update(snap.epoch, func(snap *snapshot) {
		refused := maps.Clone(snap.unsaved.scopes)
		delete(refused, v.scope)
		snap.replaceState(snap.unsaved.state.withPartOf(snap.state, v.scope), s, refused)
	})
}
