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

// A record is the cached state of one name. It stays when the credential changes, and is removed
// when the name turns out not to be in storage.
type record struct {
	name string

	flights singleflight.Group

	// Only the holder of the name's lock uses these: what storage has of the state, and the
	// allowances of dedicated roles, by role.
	stored     *storedState
	allowances map[string]*allowance

	// refreshLimits limits the refreshes of the name: first those that keep the cached tokens, then
	// those with drop.
	refreshLimits [2]*rate.Limiter

	mu      sync.Mutex
	current snapshot
	uses    map[string]use // by scope
	running operation

	// delegations are the exchanges for callers; nil if there are none since the last change.
	delegations *delegations

	pending string // the token of a variant that is about to be stored
}

// An operation is a renewal, a refresh, a write or a dedicated exchange that holds the lock of a
// name. The zero operation means that there is none.
type operation struct {
	isDedicated bool // if so, other readers get no token from it
	since       time.Time
}

// A use describes how readers use the tokens of a scope.
type use struct {
	// inUse is whether the token has been read, or requested without success, since its issue. The
	// engine renews such a token before it expires. isAwaited is whether a reader waits for a newer
	// token.
	inUse, isAwaited bool

	// lastRead is when the token was last read, to within useAccuracy.
	lastRead time.Time
}

// useAccuracy is the least time between two updates of lastRead, so that most reads need none.
const useAccuracy = time.Minute

// isAbandoned reports whether a failing scope has had no reader for failureRetention.
func (u use) isAbandoned(v scopeSnapshot, now time.Time) bool {
	token := v.token()
	return v.lastFailure(now).Count > 0 && leaseTTL(token, now) == 0 && now.Sub(maxTime(u.lastRead, token.ExpireTime)) > failureRetention
}

// cached returns the record of a name, or nil if there is none.
func (b *Broker) cached(name string) *record {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.records[name]
}

// allCached returns the records of all names: first those of credentials, and then those of variants, which
// are loaded from the credential in memory.
func (b *Broker) allCached() []*record {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*record, 0, len(b.records))
	for _, r := range b.records {
		if !isVariant(r.name) {
			all = append(all, r)
		}
	}
	for _, variants := range b.variants {
		all = slices.AppendSeq(all, maps.Values(variants))
	}
	return all
}

// lockRecord locks a name and returns its record, which it creates if necessary. unlock also
// removes the record if the name is not in storage. The errors are those of locks.lock.
func (b *Broker) lockRecord(ctx context.Context, name string) (r *record, unlock func(), err error) {
	unlockName, err := b.locks.lock(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	r, unlock = b.withRecord(name, unlockName)
	return r, unlock, nil
}

// withRecord is lockRecord for a name whose lock the caller holds.
func (b *Broker) withRecord(name string, unlockName func()) (r *record, unlock func()) {
	r = b.recordOf(name)
	return r, func() {
		b.removeAbsent(r)
		unlockName()
	}
}

// recordOf returns the record of a name, which it creates if necessary. The caller holds the lock
// of the name, and calls removeAbsent before it releases the lock.
func (b *Broker) recordOf(name string) *record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recordLocked(name)
}

// addListed returns the record of a name that is in storage, which it creates if necessary.
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
		b.indexLocked(r)
	}
	return r
}

// removeAbsent removes the record of a name that is not in storage, unless it has something that
// must still be stored.
func (b *Broker) removeAbsent(r *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.presence == absent && r.current.unsaved == nil {
		delete(b.records, r.name)
		b.unindexLocked(r)
	}
}

// get returns the current snapshot.
func (r *record) get() snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// update changes the snapshot and returns the result. The error is errSuperseded if the credential
// has changed since epoch.
func (r *record) update(epoch uint64, f func(*snapshot)) (snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.epoch != epoch {
		return r.current, errSuperseded
	}
	f(&r.current)
	return r.current, nil
}

// reset clears what is cached of a credential. An unsaved state stays until the next load shows
// whether it belongs to the credential in storage.
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
	r.current.delegated = delegationHealth{}
	clear(r.uses)
}

// unload makes the next request load the credential again. The uses of its tokens stay.
func (r *record) unload() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unloadLocked(unloaded)
}

// reload is unload for a name that may not be in storage.
func (r *record) reload() {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := unloaded
	if r.current.presence == absent && r.current.unsaved == nil {
		p = absent
	}
	r.unloadLocked(p)
}

func (r *record) unloadLocked(p presence) {
	r.current.epoch++
	r.delegations = nil
	r.current.presence, r.current.credential, r.current.state = p, nil, nil
}

// Len returns the number of names in memory.
func (b *Broker) Len() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.records)
}

// Forget clears what is cached of a name and of its variants. The next request loads it from storage.
func (b *Broker) Forget(name string) {
	if r := b.cached(name); r != nil {
		r.forget()
	}
	for _, r := range b.variantsOf(name) {
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

// noteRead records a read of a scope's token and returns the snapshot for it. began is the start of
// the operation that is running for the name, or the zero time. isLoaded is false if the name is
// not loaded.
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

// noteAwaited records that a reader waits for a newer token.
func (r *record) noteAwaited(scope string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.uses[scope]
	u.isAwaited = true
	r.uses[scope] = u
}

// noteServedLocked records that the readers that waited for a token got the cached one.
func (r *record) noteServedLocked(scope string) {
	u := r.uses[scope]
	r.uses[scope] = use{inUse: u.inUse, lastRead: u.lastRead}
}

// noteIssuedLocked records a new token of a scope. It is in use if a reader waits for it and the
// last token was valid recently.
func (r *record) noteIssuedLocked(scope string, last provider.Token) {
	u := r.uses[scope]
	r.uses[scope] = use{inUse: u.isAwaited && wasRecentlyValid(last, time.Now()), lastRead: u.lastRead}
}

// noteRejectedLocked records that the vendor rejected a scope. A narrower scope and a variant are
// requested again only when they are read, since the role may have been corrected or deleted.
func (r *record) noteRejectedLocked(scope string, failure *provider.Error) {
	if (scope != ownScope || isVariant(r.name)) && failure.Kind == provider.Rejected {
		delete(r.uses, scope)
	}
}

// noteRefused records that a scope is requested again only when it is read.
func (r *record) noteRefused(scope string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.uses, scope)
}

// setRunning sets the operation that is running.
func (r *record) setRunning(o operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = o
}
