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

// A record is what is in memory of one name. It stays when its credential is changed, and is
// dropped when the name is not in storage.
type record struct {
	name string

	flights singleflight.Group

	// The holder of the name's lock uses these: what storage has of the state, and the
	// allowances of dedicated roles, by role.
	stored     *storedState
	allowances map[string]*allowance

	// refreshLimits limits the refreshes of the name: those that keep the cached tokens, and those
	// that drop them first.
	refreshLimits [2]*rate.Limiter

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
	return v.lastFailure(now).Count > 0 && leaseTTL(token, now) == 0 && now.Sub(maxTime(u.lastRead, token.ExpireTime)) > failureRetention
}

// cached returns the entry of a name; nil if there is none.
func (b *Broker) cached(name string) *record {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.records[name]
}

// allCached returns the entries of all names.
func (b *Broker) allCached() []*record {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Collect(maps.Values(b.records))
}

// lockRecord locks a name and returns its entry, which it creates if there is none. unlock drops
// the entry if the name turned out not to be in storage. Its errors are those of locks.lock.
func (b *Broker) lockRecord(ctx context.Context, name string) (r *record, unlock func(), err error) {
	unlockName, err := b.locks.lock(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	r, unlock = b.withRecord(name, unlockName)
	return r, unlock, nil
}

// withRecord is lockRecord for a name whose lock is held.
func (b *Broker) withRecord(name string, unlockName func()) (r *record, unlock func()) {
	r = b.recordOf(name)
	return r, func() {
		b.removeAbsent(r)
		unlockName()
	}
}

// recordOf returns the entry of a name, which it creates if there is none. The caller holds the
// lock of the name, and calls removeAbsent before it gives it back.
func (b *Broker) recordOf(name string) *record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recordLocked(name)
}

// addListed creates the entry of a name that is in storage, if there is none.
func (b *Broker) addListed(name string) *record {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.recordLocked(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.presence == absent {
		r.current.presence = unloaded
	}
	return r
}

func (b *Broker) recordLocked(name string) *record {
	r := b.records[name]
	if r == nil {
		r = &record{name: name, uses: map[string]use{}, allowances: map[string]*allowance{}, refreshLimits: newRefreshLimits()}
		b.records[name] = r
	}
	return r
}

// removeAbsent drops the entry of a name that is not in storage, unless it holds something that is
// still to be stored.
func (b *Broker) removeAbsent(r *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.presence == absent && r.current.unsaved == nil {
		delete(b.records, r.name)
	}
}

// get returns what is known of the name now.
func (r *record) get() snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// update changes what is known of the name, and returns the result. Its error is errSuperseded
// if the credential has changed since epoch.
func (r *record) update(epoch uint64, f func(*snapshot)) (snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.epoch != epoch {
		return r.current, errSuperseded
	}
	f(&r.current)
	return r.current, nil
}

// reset forgets what is known of a credential. An unsaved state stays until it is known whether
// it belongs to the credential that is loaded next.
func (r *record) reset(p presence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resetLocked(p)
}

func (r *record) resetLocked(p presence) {
	if r.current.presence == loaded {
		r.current.previousTokens = r.current.replacedTokens()
	}
	r.unloadLocked(p)
	r.current.roleFailures, r.current.early, r.current.panicPause = nil, nil, time.Time{}
	clear(r.uses)
}

// unload has the credential loaded again. How its tokens are used stays.
func (r *record) unload() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unloadLocked(unloaded)
}

func (r *record) unloadLocked(p presence) {
	r.current.epoch++
	r.current.presence, r.current.credential, r.current.state = p, nil, nil
}

// Len returns the number of names in memory.
func (b *Broker) Len() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.records)
}

// Forget drops what is cached of a name, which is loaded again when it is needed.
func (b *Broker) Forget(name string) {
	if r := b.cached(name); r != nil {
		r.forget()
	}
}

// ForgetAll is Forget for all names.
func (b *Broker) ForgetAll() {
	for _, r := range b.allCached() {
		r.forget()
	}
}

func (r *record) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := unloaded
	if r.current.presence == absent && r.current.unsaved == nil {
		p = absent
	}
	r.resetLocked(p)
}

// noteRead notes that a token of a scope is read, and returns what is known of it. It also returns
// the start of the operation that is running for the name, or the zero time. It reports false if
// nothing is loaded.
func (r *record) noteRead(scope string) (v scopeSnapshot, began time.Time, isLoaded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.presence != loaded {
		return scopeSnapshot{}, time.Time{}, false
	}
	v = r.current.of(scope)
	if u, now := r.uses[v.scope], time.Now(); !u.inUse || now.Sub(u.lastRead) > useAccuracy {
		u.inUse, u.lastRead = true, now
		r.uses[v.scope] = u
	}
	return v, r.running.since, true
}

// noteAwaited notes that a reader waits for a newer token.
func (r *record) noteAwaited(scope string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.uses[scope]
	u.isAwaited = true
	r.uses[scope] = u
}

// noteServedLocked notes that those that waited for a token have got the one there is.
func (r *record) noteServedLocked(scope string) {
	u := r.uses[scope]
	r.uses[scope] = use{inUse: u.inUse, lastRead: u.lastRead}
}

// noteIssuedLocked notes a new token of a scope. A reader that waited for it counts as its user
// if the last one was in use, too.
func (r *record) noteIssuedLocked(scope string, last provider.Token) {
	u := r.uses[scope]
	r.uses[scope] = use{inUse: u.isAwaited && wasRecentlyValid(last, time.Now()), lastRead: u.lastRead}
}

// noteRejectedLocked notes that the vendor rejected a scope. A narrower one is asked for again
// only when somebody reads it, since its role may have been corrected or deleted.
func (r *record) noteRejectedLocked(scope string, failure *provider.Error) {
	if scope != ownScope && failure.Kind == provider.Rejected {
		delete(r.uses, scope)
	}
}

// setRunning notes the operation that is running.
func (r *record) setRunning(o operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = o
}
