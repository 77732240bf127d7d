package broker

import (
	"context"
	"errors"
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
		e = &entry{name: name, exclusive: make(chan struct{}, 1), closed: b.closed, uses: map[string]use{}, allowances: map[string]*allowance{}}
		b.names[name] = e
	}
	return e
}

func (e *entry) acquire(ctx context.Context) error {
	select {
	case e.exclusive <- struct{}{}:
		if isClosed(e.closed) {
			e.release()
			return ErrClosed
		}
		if e.gone {
			e.release()
			return ErrUnknown
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
