package broker

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// An entry is what the index has of a name: each one that is in storage, as far as is known, and each whose lock is
// held. Most names have no record, only a summary.
type entry struct {
	name    string
	record  *record  // nil while the name is not in memory
	summary *summary // nil while the record has more, and of a name that has yet to be read
	client  string   // that the credential used when it was last read

	// next is when the sweep looks at the name; zero for when it is touched. position is that in the queue; -1 if it is
	// not there.
	next     time.Time
	position int
}

// known returns the summary, unless it is not current.
func (e *entry) known() *summary {
	if e.summary == nil || e.summary.isStale {
		return nil
	}
	return e.summary
}

// A queue has the entries of which a time is known when the sweep must look at them, the earliest first. It implements
// heap.Interface. The SDK's queue has a second map of the names and a lock, which would cost as much as the entries.
type queue []*entry

func (q queue) Len() int { return len(q) }

// Less puts variants last, since they are loaded from the credential in memory.
func (q queue) Less(i, j int) bool {
	if q[i].next.Equal(q[j].next) {
		return !isVariant(q[i].name) && isVariant(q[j].name)
	}
	return q[i].next.Before(q[j].next)
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].position, q[j].position = i, j
}

func (q *queue) Push(e any) {
	added := e.(*entry) //nolint:forcetypeassert // only requeueLocked pushes
	added.position = len(*q)
	*q = append(*q, added)
}

func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q, last.position = (*q)[:len(*q)-1], -1
	return last
}

// requeueLocked sets when the sweep looks at a name; the zero time for when it is touched.
func (b *Broker) requeueLocked(e *entry, next time.Time) {
	e.next = next
	switch {
	case next.IsZero() && e.position >= 0:
		heap.Remove(&b.queue, e.position)
	case next.IsZero():
	case e.position >= 0:
		heap.Fix(&b.queue, e.position)
	default:
		heap.Push(&b.queue, e)
	}
}

// popDue removes an entry from the queue that the sweep must look at, and returns it with its record; nil if there is
// none.
func (b *Broker) popDue(now time.Time) (*entry, *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 || now.Before(b.queue[0].next) {
		return nil, nil
	}
	e := heap.Pop(&b.queue).(*entry) //nolint:forcetypeassert // the queue has nothing else
	return e, e.record
}

// entryLocked returns the entry of a name, which it creates if necessary.
func (b *Broker) entryLocked(name string) (e *entry, isNew bool) {
	if e = b.entries[name]; e != nil {
		return e, false
	}
	e = &entry{name: name, position: -1}
	b.entries[name] = e
	if isVariant(name) {
		addTo(b.variants, BaseName(name), e)
	}
	return e, true
}

// removeLocked removes a name that is not in storage.
func (b *Broker) removeLocked(e *entry) {
	b.requeueLocked(e, time.Time{})
	delete(b.entries, e.name)
	removeFrom(b.variants, BaseName(e.name), e)
	removeFrom(b.clients, e.client, e)
	delete(b.rotationsDue, e.name)
	delete(b.expiries, e.name)
	delete(b.idle, e.name)
}

// addTo adds an entry to those with a key.
func addTo(all map[string]map[string]*entry, key string, e *entry) {
	if all[key] == nil {
		all[key] = map[string]*entry{}
	}
	all[key][e.name] = e
}

// removeFrom is the inverse of addTo.
func removeFrom(all map[string]map[string]*entry, key string, e *entry) {
	delete(all[key], e.name)
	if len(all[key]) == 0 {
		delete(all, key)
	}
}

// list adds a name that is in storage.
func (b *Broker) list(name string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, isNew := b.entryLocked(name)
	if isNew {
		b.requeueLocked(e, now)
	}
	if e.record != nil {
		e.record.noteListed()
	}
}

// noteLoaded records that the record of a name has all that is known of it, and which client the credential uses.
func (b *Broker) noteLoaded(r *record, client string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[r.name]
	if e == nil || e.record != r {
		return
	}
	e.summary = nil
	b.setClientLocked(e, client)
}

func (b *Broker) setClientLocked(e *entry, client string) {
	if e.client == client {
		return
	}
	removeFrom(b.clients, e.client, e)
	if e.client = client; client != "" {
		addTo(b.clients, client, e)
	}
}

// outdateLocked makes the next request, or the sweep, read a name again. Whether its tokens are in use is forgotten
// unless keepsUses is set.
func (b *Broker) outdateLocked(e *entry, keepsUses bool) {
	if e.summary != nil {
		e.summary = e.summary.outdated(keepsUses)
	}
	if e.record == nil {
		b.requeueLocked(e, time.Now())
	}
}

// A known is what is in memory of a name.
type known struct {
	name    string
	record  *record
	summary *summary // nil if the record has more, and of a name that has yet to be read
}

// all returns what is in memory of the credentials, without variants.
func (b *Broker) all() []known {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]known, 0, len(b.entries))
	for name, e := range b.entries {
		if !isVariant(name) {
			all = append(all, known{name, e.record, e.known()})
		}
	}
	return all
}

// find returns what is in memory of a name.
func (b *Broker) find(name string) known {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if e := b.entries[name]; e != nil {
		return known{name, e.record, e.known()}
	}
	return known{name: name}
}

// Len returns the number of names in memory.
func (b *Broker) Len() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.entries)
}

// touches are the records that have changed since the sweep last looked at them, so that it looks at no others but
// those in the queue. It is safe for concurrent use.
type touches struct {
	mu      sync.Mutex
	records []*record
}

func (t *touches) add(r *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records = append(t.records, r)
}

func (t *touches) take() []*record {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.records
	t.records = nil
	return all
}

// drop removes a record that was added last, after a look at it.
func (t *touches) drop(r *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isTouched && r.current.presence != absent { // since the look, or by it; one that is evicted is absent
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := len(t.records) - 1; last >= 0 && t.records[last] == r {
		t.records[last], t.records = nil, t.records[:last]
	}
}

// maxFailedLoads is after how many failures of storage a sweep loads no further names.
const maxFailedLoads = 16

// wake looks at the names whose time has come, and loads those that are not in memory. It looks at each before it loads the
// next, since most are evicted at once. What it cannot load within loadTimeout is left to the next sweep.
func (b *Broker) wake(ctx context.Context, s logical.Storage, now time.Time, look func(*record)) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	var failures []error
	var left []*entry
	hasLoaded := false
	for e, r := b.popDue(now); e != nil; e, r = b.popDue(now) {
		switch {
		case r != nil && !r.mayLoad(now):
			look(r)
		case ctx.Err() != nil || isClosed(b.closed) || len(failures) == maxFailedLoads:
			left = append(left, e)
		default:
			isDone, err := b.loadUnlocked(ctx, s, e.name)
			// A load that the end of the time has interrupted is not a failure of storage, if others have succeeded.
			if err != nil && (ctx.Err() == nil || !hasLoaded) {
				failures = append(failures, err)
			}
			if hasLoaded = hasLoaded || isDone; !isDone {
				left = append(left, e)
			} else if r := b.cached(e.name); r != nil {
				look(r)
				b.touches.drop(r)
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range left {
		if b.entries[e.name] == e {
			b.requeueLocked(e, now)
		}
	}
	return errors.Join(failures...)
}

// loadUnlocked loads a name unless its lock is held, whose holder loads it. It reports whether it is known then what
// storage has. The error is of type *storage.Error.
func (b *Broker) loadUnlocked(ctx context.Context, s logical.Storage, name string) (isDone bool, err error) {
	unlockName, isLocked := b.locks.tryLock(name)
	if !isLocked {
		return false, nil
	}
	r, unlock := b.withRecord(name, unlockName)
	defer unlock()
	defer b.contain(r, new(error)) // contain logs it
	_, err = b.load(ctx, s, r)
	switch {
	case storage.IsError(err):
		return false, err
	case err != nil && isVariant(name): // the error may name the reader
		b.source.Logger().Debug("the credential cannot have a token of a reader any more", "name", name)
	case err != nil && !errors.Is(err, ErrUnknown):
		b.source.Logger().Warn("a credential cannot be used", "name", name, "error", err)
	}
	return true, nil
}

// lookAt returns the due tasks of a record that was touched; none if that panics. It also notes what else is due, evicts
// the record if nothing needs it, and determines when to look at the name again.
func (b *Broker) lookAt(r *record, now time.Time) (due nameTasks) {
	if b.cached(r.name) != r {
		return due
	}
	defer b.contain(r, new(error)) // contain logs it, and touches the record
	r.removeUnused(now)
	due = r.dueTasks(now)
	next, found := r.nextLook(now)
	if len(due.tasks) > 0 {
		next = now.Add(1) // in the next sweep
	}
	isEvicted := len(due.tasks) == 0 && b.evict(r, next, now)
	if !isEvicted {
		next = earliest(next, r.evictTime(now))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[r.name]
	if e == nil || e.record != r && !isEvicted {
		return due
	}
	found.noteIn(b, r.name)
	if !isEvicted {
		b.requeueLocked(e, next)
	}
	return due
}

// lookAgain makes the next sweep look at all names, as after a step of the clock, with which all times have changed.
func (b *Broker) lookAgain(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		b.requeueLocked(e, now)
	}
}

// lookAgainAt makes the sweep look at a name at a time.
func (b *Broker) lookAgainAt(name string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rotationsDue, name)
	if e := b.entries[name]; e != nil {
		b.requeueLocked(e, at)
	}
}

// A finding is what a look at a name has found, apart from its tasks.
type finding struct {
	expiry        Expiry
	isKnown       bool // whether expiry is
	isRotationDue bool
	isIdle        bool // a variant
}

func (f finding) noteIn(b *Broker, name string) {
	set := func(all map[string]bool, is bool) {
		if delete(all, name); is {
			all[name] = true
		}
	}
	set(b.rotationsDue, f.isRotationDue)
	set(b.idle, f.isIdle)
	if f.isKnown && !isVariant(name) {
		b.expiries[name] = f.expiry
	}
}

// earliest returns the first of some times that are not zero; the zero time if all are.
func earliest(times ...time.Time) time.Time {
	times = slices.DeleteFunc(times, time.Time.IsZero)
	if len(times) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(times, time.Time.Compare)
}
