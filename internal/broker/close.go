package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrClosed means that the engine is being unloaded, so nothing begins.
var ErrClosed = errors.New("the engine is being unloaded; try again")

// closeTimeout is the longest wait of Close. Vault holds a lock in the meantime.
const closeTimeout = 900 * time.Millisecond

// Close prevents new exchanges, and returns within a second. It waits that long for running
// exchanges, since they may have to store a rotated refresh token, and writes unsaved states. It
// does not cancel an exchange that takes longer: that one goes on until the vendor answers or it
// times out, while the process runs.
func (b *Broker) Close(ctx context.Context) {
	b.closing.Do(func() {
		close(b.closed)
		b.pacer.Close()
	})
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.drain(ctx)
	}()
	select {
	case <-ended:
	case <-ctx.Done(): // storage may exceed the deadline of its context
	}
	if ctx.Err() != nil {
		b.source.Logger().Warn("unloading while a request to a vendor or storage is in progress")
	}
}

func isClosed(closed <-chan struct{}) bool {
	select {
	case <-closed:
		return true
	default:
		return false
	}
}

// drain waits for running operations and writes what is unsaved. It begins with the names whose
// locks are free. It then waits for all other names concurrently. A locked name may have no record
// yet.
func (b *Broker) drain(ctx context.Context) {
	names := b.locks.lockedNames()
	b.mu.RLock()
	for name, e := range b.entries {
		if e.record != nil {
			names[name] = true
		}
	}
	b.mu.RUnlock()
	var busy []string
	for name := range names {
		unlock, isLocked := b.locks.tryLock(name)
		if !isLocked {
			busy = append(busy, name)
			continue
		}
		b.saveUnsaved(ctx, name)
		unlock()
	}
	var all sync.WaitGroup
	for _, name := range busy {
		all.Go(func() {
			unlock, err := b.locks.lockClosed(ctx, name)
			if err != nil {
				return
			}
			defer unlock()
			b.saveUnsaved(ctx, name)
		})
	}
	all.Wait()
}

// saveUnsaved writes the unsaved state of a name, if it still belongs to the credential in storage.
// The caller holds the lock of the name.
func (b *Broker) saveUnsaved(ctx context.Context, name string) {
	r := b.cached(name)
	if r == nil {
		return
	}
	defer b.contain(r, new(error)) // contain logs it
	u := r.get().unsaved
	if u == nil {
		return
	}
	r.endPanicPause() // no later attempt is possible
	if snap, err := b.load(ctx, u.storage, r); err == nil && snap.unsaved != nil {
		_, _ = b.save(ctx, u.storage, r, snap, ownScope, snap.unsaved.state) // save logs the error
	}
}
