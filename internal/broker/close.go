package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrClosed means that the engine is on its way out, and begins nothing any more.
var ErrClosed = errors.New("the engine is being unloaded")

// closeTimeout is how long Close waits: Vault holds a lock meanwhile that all others want.
const closeTimeout = 900 * time.Millisecond

// Close has no exchange begin from now on, and returns within a second. What is under way
// has that long to end, for it may have to store a refresh token that the vendor has
// replaced; so have states that storage refused before. An exchange that takes longer is
// not broken off: it goes on until its vendor answers, or has taken too long, for as long as
// the process lives.
func (b *Broker) Close(ctx context.Context) {
	b.closing.Do(func() { close(b.closed) })
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.end(ctx)
	}()
	select {
	case <-ended:
	case <-ctx.Done(): // storage does not mind how long its caller waits
	}
	if ctx.Err() != nil {
		b.source.Logger().Warn("the engine is unloaded while a vendor, or storage, has yet to answer")
	}
}

// isClosed is whether nothing is to begin any more.
func (b *Broker) isClosed() bool { return isClosed(b.closed) }

func isClosed(closed <-chan struct{}) bool {
	select {
	case <-closed:
		return true
	default:
		return false
	}
}

// end waits for what is under way, and stores what is not stored yet.
func (b *Broker) end(ctx context.Context) {
	var busy []*entry // who must not keep the others from being stored
	for _, e := range b.entries() {
		select {
		case e.exclusive <- struct{}{}:
			b.storeUnsaved(ctx, e)
		default:
			busy = append(busy, e)
		}
	}
	var all sync.WaitGroup
	for _, e := range busy { // of whom one whose vendor hangs is not to keep the others
		all.Go(func() {
			select {
			case e.exclusive <- struct{}{}:
				b.storeUnsaved(ctx, e)
			case <-ctx.Done():
			}
		})
	}
	all.Wait()
}

// storeUnsaved stores what storage has refused before, if it still belongs there. The
// caller has the exclusive right to the name, and gives it back by this.
func (b *Broker) storeUnsaved(ctx context.Context, e *entry) {
	defer e.release()
	defer b.contain(e, new(error)) // which it logs
	held := e.look().unsaved
	if held == nil {
		return
	}
	e.forgive() // as there is no later
	if m, err := b.current(ctx, held.in, e); err == nil && m.unsaved != nil {
		_, _ = b.save(ctx, held.in, e, m, ownScope, m.unsaved.state) // which logs what it cannot
	}
}
