package broker

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/time/rate"
)

// stored is the entry of a name that has a credential in storage.
func (b *Broker) stored(name string) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entryLocked(name)
	e.stays = true
	return e
}

func (b *Broker) entry(name string) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entryLocked(name)
}

func (b *Broker) entryLocked(name string) *entry {
	e := b.names[name]
	if e == nil {
		e = &entry{
			name: name, closed: b.closed, exclusive: make(chan struct{}, 1), turn: make(chan struct{}, 1),
			uses: map[string]use{}, dedicating: map[string]int{}, allowances: map[string]*allowance{},
			refreshes: [2]*rate.Limiter{newRefreshes(), newRefreshes()},
		}
		b.names[name] = e
	}
	return e
}

func (e *entry) acquire(ctx context.Context) error {
	if err := e.acquireFrom(ctx, e.exclusive); err != nil {
		return err
	}
	if e.gone {
		e.release()
		return ErrUnknown
	}
	return nil
}

// acquireFrom takes what only one may have at a time, unless the engine is closed.
func (e *entry) acquireFrom(ctx context.Context, one chan struct{}) error {
	select {
	case one <- struct{}{}:
		if isClosed(e.closed) {
			<-one
			return ErrClosed
		}
		return nil
	case <-e.closed:
		return ErrClosed
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) { // who waits has gone
			return ctx.Err()
		}
		return ErrBusy
	}
}

func (e *entry) release() { <-e.exclusive }

// maxDedicating is how many exchanges of one dedicated role are under way, or wait, at once.
const maxDedicating = 16

// ErrCrowded means that as many exchanges of a dedicated role wait for the vendor as may.
var ErrCrowded = fmt.Errorf("%d reads already wait for a token of their own", maxDedicating)

// acquireDedicated takes the exclusive right to a name for an exchange of a dedicated role,
// and returns what gives it back. Only one such exchange of a name waits for the right at a
// time; the others wait for their turn to do so. So whoever else wants the right waits for two
// of them at most. Its error is ErrCrowded if too many of the role wait already.
func (b *Broker) acquireDedicated(ctx context.Context, e *entry, role string) (release func(), err error) {
	if !e.enqueue(role) {
		return nil, ErrCrowded
	}
	if err := e.acquireFrom(ctx, e.turn); err != nil {
		e.dequeue(role)
		return nil, err
	}
	if err := e.acquire(ctx); err != nil {
		<-e.turn
		e.dequeue(role)
		return nil, err
	}
	return func() {
		b.leave(e)
		<-e.turn // and not before: those who wait by now are next
		e.dequeue(role)
	}, nil
}

// enqueue counts an exchange of a dedicated role, unless there are too many.
func (e *entry) enqueue(role string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dedicating[role] >= maxDedicating {
		return false
	}
	e.dedicating[role]++
	return true
}

func (e *entry) dequeue(role string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dedicating[role]--; e.dedicating[role] == 0 {
		delete(e.dedicating, role)
	}
}

// enter takes the exclusive right to a name, whether it is stored or not.
func (b *Broker) enter(ctx context.Context, name string) (*entry, error) {
	for {
		e := b.entry(name)
		err := e.acquire(ctx)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, ErrUnknown) { // of an entry that has gone
			return nil, err
		}
	}
}

// leave gives the exclusive right to a name back, and the entry up if nothing is stored
// under the name, or in memory for it.
func (b *Broker) leave(e *entry) {
	m := e.look()
	b.mu.Lock()
	if !e.stays && m.credential == nil && !m.unusable && m.unsaved == nil {
		delete(b.names, e.name)
		e.gone = true
	}
	b.mu.Unlock()
	e.release()
}

// setStays notes whether the name is stored.
func (b *Broker) setStays(e *entry, stays bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.stays = stays
}
