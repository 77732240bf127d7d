package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrClosed means that the engine is being unloaded, and begins nothing any more.
var ErrClosed = errors.New("the engine is being unloaded; try again")

// closeTimeout is how long Close waits. Vault holds a lock meanwhile that all others want.
const closeTimeout = 900 * time.Millisecond

// Close has no exchange begin from now on, and returns within a second. Exchanges that are
// running have that long to end, since they may have to store a rotated refresh token, and
// states that storage refused before are written. An exchange that takes longer is not canceled:
// it goes on until its vendor answers or it times out, if the process lives that long.
func (b *Broker) Close(ctx context.Context) {
	b.closing.Do(func() { close(b.closed) })
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.drain(ctx)
	}()
	select {
	case <-ended:
	case <-ctx.Done(): // storage may take longer than its context
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

// drain waits for what is running, and writes what is unsaved: first of the names whose lock is
// free, then of the others, none of which waits for another. The holder of a lock may have no entry
// yet.
func (b *Broker) drain(ctx context.Context) {
	names := b.locks.inUse()
	for _, r := range b.allCached() {
		names[r.name] = true
	}
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

// saveUnsaved writes what storage has refused before, if it still belongs there. The caller holds
// the lock of the name.
func (b *Broker) saveUnsaved(ctx context.Context, name string) {
	r := b.cached(name)
	if r == nil {
		return
	}
	defer b.contain(r, new(error)) // which it logs
	u := r.get().unsaved
	if u == nil {
		return
	}
	r.endPanicPause() // there is no later
	if snap, err := b.load(ctx, u.storage, r); err == nil && snap.unsaved != nil {
		_, _ = b.save(ctx, u.storage, r, snap, ownScope, snap.unsaved.state) // which logs its error
	}
}
