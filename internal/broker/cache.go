package broker

import (
	"context"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A record is the cached state of one name. It stays when the credential changes. It is removed when the name turns out
// not to be in storage, and evicted when nothing needs it (evict.go).
type record struct {
	name    string
	touches *touches

	flights singleflight.Group

	// Only the holder of the name's lock uses these: what storage has of the state, and the
	// allowances of dedicated roles, by role; nil if there are none.
	stored     *storedState
	allowances map[string]*allowance

	// refreshLimits limits the refreshes of the name: first those that keep the cached tokens, then
	// those with drop. They are nil until there was one.
	refreshLimits [2]*rate.Limiter

	mu      sync.Mutex
	current snapshot
	uses    map[string]use // by scope; nil if there are none
	running operation

	// waiting counts those that wait for the lock of the name, by how urgent they are.
	waiting [pacing.Operator + 1]int

	// isTouched is whether the sweep must look at the record. needed is when a reader or an operator last needed it, to
	// within useAccuracy. seen is that of the summary that the record replaces; zero if there was none.
	isTouched    bool
	needed, seen time.Time

	// delegations are the exchanges for callers; nil if there are none since the last change.
	delegations *delegations

	pending string // the token of a variant that is about to be stored
}

// An operation is a renewal, a refresh, a write or a dedicated exchange that holds the lock of a
// name. The zero operation means that there is none.
type operation struct {
	isDedicated bool // if so, other readers get no token from it
	since       time.Time

	// urgency is that of its exchanges. admission is what the requests of the present one have in
	// common; nil if there is none.
	urgency   pacing.Priority
	admission *pacing.Admission
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
	if e := b.entries[name]; e != nil {
		return e.record
	}
	return nil
}

// lockRecord locks a name and returns its record, which it creates if necessary. unlock also
// removes the record if the name is not in storage. p is how urgent the caller is; it holds also for what
// the name's operation asks the vendor meanwhile. The errors are those of locks.lock.
func (b *Broker) lockRecord(ctx context.Context, name string, p pacing.Priority) (r *record, unlock func(), err error) {
	defer b.await(name, p)()
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

// recordLocked also restores what the summary of a name has that storage does not.
func (b *Broker) recordLocked(name string) *record {
	e, isNew := b.entryLocked(name)
	if e.record != nil {
		return e.record
	}
	r := &record{name: name, touches: &b.touches}
	if !isNew {
		r.current.presence = unloaded
		r.touchLocked()
	}
	if m := e.summary; m != nil {
		r.uses, r.seen, r.current.loggedSkew = maps.Clone(m.uses), m.seen, m.loggedSkew
		if m.delegated != nil {
			r.current.delegated = *m.delegated
		}
	}
	e.record = r
	return r
}

// noteListed records that the name is in storage.
func (r *record) noteListed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.presence == absent {
		r.current.presence = unloaded
		r.touchLocked()
	}
}

// touchLocked makes the next sweep look at the record.
func (r *record) touchLocked() {
	if !r.isTouched {
		r.isTouched = true
		r.touches.add(r)
	}
}

// noteNeeded records that a reader or an operator needs the record.
func (r *record) noteNeeded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.needed = time.Now()
	r.touchLocked()
}

// setUseLocked sets the use of a scope.
func (r *record) setUseLocked(scope string, u use) {
	if r.uses == nil {
		r.uses = map[string]use{}
	}
	r.uses[scope] = u
	r.touchLocked()
}

// removeAbsent removes the record of a name that is not in storage, unless it has something that
// must still be stored.
func (b *Broker) removeAbsent(r *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := b.entries[r.name]; e != nil && e.record == r && r.current.presence == absent && r.current.unsaved == nil {
		b.removeLocked(e)
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
	r.touchLocked()
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
	r.delegations, r.seen = nil, time.Time{}
	r.current.presence, r.current.credential, r.current.state = p, nil, nil
	r.touchLocked()
}

// Forget clears what is cached of a name and of its variants. The next request loads it from storage.
func (b *Broker) Forget(name string) {
	b.outdate(name, false, (*record).forget, (*record).forget)
}

// outdate makes the next request load a name and its variants again. The functions do that for records of the name and
// of its variants; keepsUses is whether what they forget leaves out the uses of tokens.
func (b *Broker) outdate(name string, keepsUses bool, own, ofVariant func(*record)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[name]; e != nil {
		b.outdateLocked(e, keepsUses)
		if e.record != nil {
			own(e.record)
		}
	}
	for _, e := range b.variants[name] {
		b.outdateLocked(e, keepsUses)
		if e.record != nil {
			ofVariant(e.record)
		}
	}
}

// ForgetAll is Forget for all names.
func (b *Broker) ForgetAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		b.outdateLocked(e, false)
		if e.record != nil {
			e.record.forget()
		}
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
		u.inUse, u.lastRead, r.needed = true, now, now
		r.setUseLocked(v.scope, u)
	}
	return v, r.running.since, true
}

// noteAwaited records that a reader waits for a newer token, and how urgently. The operation that is
// running may yield it, and otherwise the reader waits for its end.
func (r *record) noteAwaited(scope string, p pacing.Priority) {
	r.mu.Lock()
	u := r.uses[scope]
	u.isAwaited = true
	r.setUseLocked(scope, u)
	r.mu.Unlock()
	r.raise(p)
}

// noteServedLocked records that the readers that waited for a token got the cached one.
func (r *record) noteServedLocked(scope string) {
	u := r.uses[scope]
	r.setUseLocked(scope, use{inUse: u.inUse, lastRead: u.lastRead})
}

// noteIssuedLocked records a new token of a scope. It is in use if a reader waits for it and the
// last token was valid recently.
func (r *record) noteIssuedLocked(scope string, last provider.Token) {
	u := r.uses[scope]
	r.setUseLocked(scope, use{inUse: u.isAwaited && wasRecentlyValid(last, time.Now()), lastRead: u.lastRead})
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
	r.touchLocked()
}
