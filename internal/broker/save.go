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

// stored is what storage has of a name's state, as far as is known. It is of whoever has the
// exclusive right to the name.
type stored struct {
	grant  provider.Grant
	void   int
	health Health
	parts  map[string]part // by scope

	// torn are the entries whose last write has failed, and may have been done all the same:
	// that of the credential, and those of scopes.
	torn      bool
	tornParts map[string]bool

	// next is the key that the credential's entry names as the one to be written after it, of a
	// scope whose entry has not been written since.
	next string

	litter []string // keys of entries that say nothing
}

// hasCredential is whether storage has what a state has of all scopes.
func (d *stored) hasCredential(s *State) bool {
	return !d.torn && d.grant == s.Grant && d.void == s.Void
}

// hasPart is whether storage has what a state has of a scope.
func (d *stored) hasPart(s *State, scope string) bool {
	return !d.tornParts[scope] && same(d.parts[scope], s.part(scope))
}

// same is whether two values are the same in storage.
func same(a, b any) bool {
	first, err := json.Marshal(a)
	second, otherErr := json.Marshal(b)
	return err == nil && otherErr == nil && bytes.Equal(first, second)
}

// wroteCredential notes what has become of a write of the credential's entry. Tokens that it
// has dropped are so in the entries of their scopes.
func (d *stored) wroteCredential(s *State, next string, err error) {
	d.next = next
	if err != nil {
		d.torn = !d.hasCredential(s)
		return
	}
	d.torn = false
	d.litter = slices.DeleteFunc(d.litter, func(key string) bool { return key == credentialKey })
	if d.void < s.Void {
		for scope, p := range d.parts {
			d.parts[scope] = p.voided()
		}
	}
	d.grant, d.void, d.health = s.Grant, s.Void, s.Health
}

// wrotePart notes what has become of a write of the entry of a scope.
func (d *stored) wrotePart(s *State, scope string, err error) {
	d.tornParts = setOr(d.tornParts, scope, true, err != nil)
	if err != nil {
		return
	}
	d.parts = setOr(d.parts, scope, s.part(scope), !s.part(scope).isEmpty())
	if s.hasEntry(scope) {
		d.health = s.Health
	}
	if d.next == scopeKey(scope) {
		d.next = ""
	}
}

// hasEntry is whether a scope of a state has an entry in storage, which holds how the
// credential is doing, too.
func (s *State) hasEntry(scope string) bool { return scope == ownScope || !s.part(scope).isEmpty() }

// save puts a state into storage, and only then where readers see it: first the grant, if
// there is a new one, then what is of the scope. Its error, of type *storage.Error, is why
// either is not stored. What is not is held in memory: it may have the only refresh token
// that works. What is of other scopes is stored as well as it can be. The caller has the
// exclusive right to the name.
func (b *Broker) save(ctx context.Context, s logical.Storage, e *entry, m memory, scope string, next *State) (memory, error) {
	next = next.numbered()
	defer func() {
		if recovered := recover(); recovered != nil { // which costs time, and nothing that was answered
			e.hold(s, next, ErrPanicked)
			panic(recovered)
		}
	}()
	err := b.saveCredential(ctx, s, e, scope, next)
	if storage.IsTooLarge(err) && next.Grant.Derived { // the credential can have another made
		next = next.Granted(provider.Grant{Derived: true})
		err = b.saveCredential(ctx, s, e, scope, next)
	}
	if err != nil {
		b.logger(e, m.view(scope)).Warn("cannot store what the vendor answered; it is held in memory", "error", err)
		e.hold(s, next, err)
		return m, err
	}
	refused := map[string]failedWrite{}
	if m.unsaved != nil {
		maps.Copy(refused, m.unsaved.scopes)
		delete(refused, scope)
	}
	if !e.stored.hasPart(next, scope) {
		var failed failedWrite
		next, failed = b.savePart(ctx, s, e, m, scope, next)
		if err = failed.err; err != nil {
			b.logger(e, m.view(scope)).Warn("cannot store what the vendor answered of the scope", "error", err)
			refused[scope] = failed
		}
	}
	b.saveOthers(ctx, s, e, scope, next, refused)
	m, superseded := e.change(m.epoch, func(m *memory) {
		for scope, token := range next.Tokens {
			if last := m.state.Tokens[scope]; token.IssueTime != last.IssueTime && refused[scope].err == nil {
				e.issued(scope, last)
			}
		}
		if storage.IsTooLarge(err) { // and will be: it is exchanged again when somebody asks
			delete(e.uses, scope)
		}
		m.became(next, s, refused)
	})
	if err == nil {
		return m, superseded
	}
	if superseded != nil {
		e.hold(s, next, err)
	}
	return m, err
}

// numbered is the state as it is to be stored.
func (s *State) numbered() *State {
	next := *s
	next.Number++
	return &next
}

// saveCredential writes the credential's entry, if what is of all scopes has changed, or if
// nothing else is to be written that tells how the credential is doing.
func (b *Broker) saveCredential(ctx context.Context, s logical.Storage, e *entry, scope string, next *State) error {
	writesPart := !e.stored.hasPart(next, scope)
	if e.stored.hasCredential(next) && (writesPart && next.hasEntry(scope) || same(e.stored.health, next.Health)) {
		return nil
	}
	follows := e.stored.next
	if writesPart {
		follows = scopeKey(scope)
	}
	err := storage.Retry(ctx, func() error { return putCredential(ctx, s, e.name, next, follows) })
	e.stored.wroteCredential(next, follows, err)
	return err
}

// savePart writes the entry of a scope. If storage does not take so much, dropped tokens are
// let go, the oldest first, and then the new token: what the vendor answered is not wanted
// again before a while. The state is the one to go on with.
func (b *Broker) savePart(ctx context.Context, s logical.Storage, e *entry, m memory, scope string, next *State) (*State, failedWrite) {
	write := func() error {
		err := storage.Retry(ctx, func() error { return putPart(ctx, s, e.name, next, scope) })
		e.stored.wrotePart(next, scope, err)
		return err
	}
	err := write()
	for storage.IsTooLarge(err) && len(next.Dropped[scope]) > 0 {
		p := next.part(scope)
		b.logger(e, m.view(scope)).Warn("a dropped token is not kept to be revoked, as storage does not take so much", "expire_time", FormatTime(p.Dropped[0].ExpireTime))
		p.Dropped = p.Dropped[1:]
		next = next.withPart(scope, p)
		err = write()
	}
	switch {
	case err == nil:
		return next, failedWrite{}
	case !storage.IsTooLarge(err):
		return next, failedNow(err)
	}
	next = next.without(scope, m.state)
	if !e.stored.hasPart(next, scope) {
		_ = write()
	}
	return next, failedWrite{err: err, retryTime: time.Now().Add(rejectedPause)}
}

// without is the state without what an exchange for a scope has yielded beside a grant of all
// scopes. The token of an earlier state stays, unless the exchange has ended it.
func (s *State) without(scope string, earlier *State) *State {
	p := earlier.part(scope)
	p.Dropped = s.Dropped[scope]
	if s.Tokens[scope].InvalidatesPrevious {
		p.Token = provider.Token{}
	}
	return s.withPart(scope, p)
}

// tidyTimeout bounds how long an exchange writes what is of other scopes than its own. What is
// left is for the next one.
const tidyTimeout = time.Second

// saveOthers writes what else differs from what storage has, in one attempt each. Those that
// storage refuses are noted if they hold what readers are to have.
func (b *Broker) saveOthers(ctx context.Context, s logical.Storage, e *entry, scope string, next *State, refused map[string]failedWrite) {
	ctx, cancel := context.WithTimeout(ctx, tidyTimeout)
	defer cancel()
	others := next.scopes()
	addKeys(others, e.stored.parts)
	addKeys(others, e.stored.tornParts)
	delete(others, scope)
	for _, other := range slices.Sorted(maps.Keys(others)) {
		if e.stored.hasPart(next, other) {
			continue
		}
		had := e.stored.parts[other]
		err := ctx.Err()
		if err == nil {
			err = putPart(ctx, s, e.name, next, other)
			e.stored.wrotePart(next, other, err)
		}
		switch {
		case err == nil:
			delete(refused, other)
		case next.Tokens[other].AccessToken != "" && next.Tokens[other].AccessToken != had.Token.AccessToken || next.Grants[other] != had.Grant && next.Grants[other] != (provider.Grant{}):
			refused[other] = failedNow(err)
		}
	}
	written := map[string]bool{}
	for scope := range next.scopes() {
		written[scopeKey(scope)] = true
	}
	e.stored.litter = slices.DeleteFunc(e.stored.litter, func(key string) bool {
		return written[key] || ctx.Err() == nil && storage.Delete(ctx, s, storage.StateKey(e.name, key)) == nil
	})
}

// note stores what may get lost: a failure that is not written down costs an attempt too
// early at most.
func (b *Broker) note(ctx context.Context, s logical.Storage, e *entry, v view, next *State, failure *provider.Error) (memory, error) {
	next = next.numbered()
	var err error
	if e.stored.hasPart(next, v.scope) || !next.hasEntry(v.scope) {
		err = putCredential(ctx, s, e.name, next, e.stored.next)
		e.stored.wroteCredential(next, e.stored.next, err)
	} else {
		err = putPart(ctx, s, e.name, next, v.scope)
		e.stored.wrotePart(next, v.scope, err)
	}
	if err != nil {
		b.logger(e, v).Warn("cannot store the failure", "error", err)
	}
	return e.change(v.epoch, func(m *memory) {
		var refused map[string]failedWrite
		if m.unsaved != nil {
			refused = m.unsaved.scopes
		}
		m.became(next, s, refused)
		e.refused(v.scope, failure)
	})
}

// settle stores what is unsaved and keeps a scope from going on. What holds nothing that
// would be missed is forgotten instead, if storage takes anything at all.
func (b *Broker) settle(ctx context.Context, s logical.Storage, e *entry, v view) (memory, error) {
	m, err := b.save(ctx, s, e, v.memory, v.scope, v.unsaved.state)
	if err == nil {
		return m, nil
	}
	if m = e.look(); m.unsaved == nil || m.unsaved.credential != nil {
		return m, err
	}
	latest := m.unsaved.state.part(v.scope)
	isMissed := time.Now().Before(latest.Token.ExpireTime) || latest.Grant != m.state.Grants[v.scope]
	if isMissed || storage.Probe(ctx, s) != nil {
		return m, err
	}
	b.logger(e, v).Warn("what the vendor answered is forgotten: storage does not take it, and its token has expired", "error", err)
	return e.change(m.epoch, func(m *memory) {
		refused := maps.Clone(m.unsaved.scopes)
		delete(refused, v.scope)
		m.became(m.unsaved.state.without(v.scope, m.state), s, refused)
	})
}
