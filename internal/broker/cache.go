package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A cacheEntry is what is in memory of one name. It stays when its credential is changed, and is
// dropped when the name is not in storage.
type cacheEntry struct {
	name string

	flights singleflight.Group

	// The holder of the name's lock uses these: what storage has of the state, and the
	// allowances of dedicated roles, by role.
	stored     *storedState
	allowances map[string]*allowance

	// refreshes limits the refreshes of the name: those that keep the cached tokens, and those
	// that drop them first.
	refreshes [2]*rate.Limiter

	mu      sync.Mutex
	current snapshot
	uses    map[string]use // by scope
	running operation
}

// An operation is what runs under the lock of a name: a renewal, a refresh, a write or a dedicated
// exchange. The zero operation is none.
type operation struct {
	isDedicated bool // which gives no other reader a token
	since       time.Time
}

// use is how the tokens of a scope are used.
type use struct {
	// inUse is whether the token has been read, or asked for in vain, since it was issued:
	// such a token is renewed ahead of its readers. isAwaited is whether a reader waits for a
	// newer one.
	inUse, isAwaited bool

	// lastRead is when the token was last read, within useAccuracy.
	lastRead time.Time
}

// useAccuracy spares most reads the update of their time.
const useAccuracy = time.Minute

// isAbandoned reports whether a scope that fails has no readers any more: none has asked for a
// while in which there was no valid token.
func (u use) isAbandoned(v scopeSnapshot, now time.Time) bool {
	token := v.token()
	return v.lastFailure(now).Count > 0 && leaseTTL(token, now) == 0 && now.Sub(later(u.lastRead, token.ExpireTime)) > refusalMemory
}

// cached returns the entry of a name; nil if there is none.
func (b *Broker) cached(name string) *cacheEntry {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.entries[name]
}

// allCached returns the entries of all names.
func (b *Broker) allCached() []*cacheEntry {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Collect(maps.Values(b.entries))
}

// lockEntry locks a name and returns its entry, which it creates if there is none. unlock drops
// the entry if the name turned out not to be in storage. Its errors are those of locks.lock.
func (b *Broker) lockEntry(ctx context.Context, name string) (e *cacheEntry, unlock func(), err error) {
	unlockName, err := b.locks.lock(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	e, unlock = b.withEntry(name, unlockName)
	return e, unlock, nil
}

// withEntry is lockEntry for a name whose lock is held.
func (b *Broker) withEntry(name string, unlockName func()) (e *cacheEntry, unlock func()) {
	e = b.entryOf(name)
	return e, func() {
		b.dropAbsent(e)
		unlockName()
	}
}

// entryOf returns the entry of a name, which it creates if there is none. The caller holds the
// lock of the name, and calls dropAbsent before it gives it back.
func (b *Broker) entryOf(name string) *cacheEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entryLocked(name)
}

// addStored creates the entry of a name that is in storage, if there is none.
func (b *Broker) addStored(name string) *cacheEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entryLocked(name)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current.presence == absent {
		e.current.presence = unloaded
	}
	return e
}

func (b *Broker) entryLocked(name string) *cacheEntry {
	e := b.entries[name]
	if e == nil {
		e = &cacheEntry{name: name, uses: map[string]use{}, allowances: map[string]*allowance{}, refreshes: newRefreshes()}
		b.entries[name] = e
	}
	return e
}

// dropAbsent drops the entry of a name that is not in storage, unless it holds something that is
// still to be stored.
func (b *Broker) dropAbsent(e *cacheEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current.presence == absent && e.current.unsaved == nil {
		delete(b.entries, e.name)
	}
}

// get returns what is known of the name now.
func (e *cacheEntry) get() snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current
}

// update changes what is known of the name, and returns the result. Its error is errSuperseded
// if the credential has changed since epoch.
func (e *cacheEntry) update(epoch uint64, f func(*snapshot)) (snapshot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current.epoch != epoch {
		return e.current, errSuperseded
	}
	f(&e.current)
	return e.current, nil
}

// reset forgets what is known of a credential. An unsaved state stays until it is known whether
// it belongs to the credential that is loaded next.
func (e *cacheEntry) reset(p presence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resetLocked(p)
}

func (e *cacheEntry) resetLocked(p presence) {
	if e.current.presence == loaded {
		e.current.earlier = e.current.earlierTokens()
	}
	e.unloadLocked(p)
	e.current.dedicated, e.current.early, e.current.panicPause = nil, nil, time.Time{}
	clear(e.uses)
}

// unload has the credential loaded again. How its tokens are used stays.
func (e *cacheEntry) unload() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unloadLocked(unloaded)
}

func (e *cacheEntry) unloadLocked(p presence) {
	e.current.epoch++
	e.current.presence, e.current.credential, e.current.state = p, nil, nil
}

// Forget drops what is cached of a name, which is loaded again when it is needed.
func (b *Broker) Forget(name string) {
	if e := b.cached(name); e != nil {
		e.forget()
	}
}

// ForgetAll is Forget for all names.
func (b *Broker) ForgetAll() {
	for _, e := range b.allCached() {
		e.forget()
	}
}

func (e *cacheEntry) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := unloaded
	if e.current.presence == absent && e.current.unsaved == nil {
		p = absent
	}
	e.resetLocked(p)
}

// noteRead notes that a token of a scope is read, and returns what is known of it. It also returns
// the start of the operation that is running for the name, or the zero time. It reports false if
// nothing is loaded.
func (e *cacheEntry) noteRead(scope string) (v scopeSnapshot, began time.Time, isLoaded bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current.presence != loaded {
		return scopeSnapshot{}, time.Time{}, false
	}
	v = e.current.of(scope)
	if u, now := e.uses[v.scope], time.Now(); !u.inUse || now.Sub(u.lastRead) > useAccuracy {
		u.inUse, u.lastRead = true, now
		e.uses[v.scope] = u
	}
	return v, e.running.since, true
}

// noteAwaited notes that a reader waits for a newer token.
func (e *cacheEntry) noteAwaited(scope string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.uses[scope]
	u.isAwaited = true
	e.uses[scope] = u
}

// noteServedLocked notes that those that waited for a token have got the one there is.
func (e *cacheEntry) noteServedLocked(scope string) {
	u := e.uses[scope]
	e.uses[scope] = use{inUse: u.inUse, lastRead: u.lastRead}
}

// noteIssuedLocked notes a new token of a scope. A reader that waited for it counts as its user
// if the last one was in use, too.
func (e *cacheEntry) noteIssuedLocked(scope string, last provider.Token) {
	u := e.uses[scope]
	e.uses[scope] = use{inUse: u.isAwaited && wasRecentlyValid(last, time.Now()), lastRead: u.lastRead}
}

// noteRejectedLocked notes that the vendor rejected a scope. A narrower one is asked for again
// only when somebody reads it, since its role may have been corrected or deleted.
func (e *cacheEntry) noteRejectedLocked(scope string, failure *provider.Error) {
	if scope != ownScope && failure.Kind == provider.Rejected {
		delete(e.uses, scope)
	}
}

// setRunning notes the operation that is running.
func (e *cacheEntry) setRunning(o operation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = o
}
