package broker

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/logical"
)

// Change runs an operator's change to a name's configuration, with what is known of
// it so far (nil if nothing is). No exchange is in flight meanwhile; after a change
// that succeeded, or that storage may have taken, no token that was known before is
// served again.
//
// A change that fails may return a state all the same: what the vendor answered on
// the occasion, to be held in memory and stored later.
func (b *Broker) Change(ctx context.Context, s logical.Storage, name string, change func(context.Context, *State) (*State, error)) error {
	e := b.entry(name)
	if err := e.acquire(ctx); err != nil {
		return err
	}
	defer e.release()
	// Once it has begun, a change is seen through: the vendor may have replaced a
	// refresh token while verifying it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	m, err := b.current(ctx, s, e)
	var storage *StorageError
	if errors.As(err, &storage) {
		// What is known may hold the only refresh token that works.
		return err
	}
	known := m.state
	if m.unsaved != nil {
		known = m.unsaved
	}
	unsaved, err := change(ctx, known)
	if err == nil || errors.As(err, &storage) {
		e.reset()
	}
	if err == nil || unsaved != nil {
		e.hold(unsaved, err)
	}
	return err
}

// Refresh forgets the tokens of a name and exchanges now, whatever has failed
// before. No token of before is served once it has returned, even if the exchange
// failed.
func (b *Broker) Refresh(ctx context.Context, s logical.Storage, name string) (*Status, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	m, err := b.current(ctx, s, e)
	if err != nil {
		return nil, err
	}
	state := m.state
	if m.unsaved != nil {
		state = m.unsaved
	}
	// Storage forgets first: a restart must not bring a token back.
	if _, err := b.save(ctx, s, e, m, state.forgotten()); err != nil {
		return nil, err
	}
	// Those who wait for a renewal start anew.
	if m, err = b.exchange(ctx, s, e, e.supersede()); err != nil {
		return nil, err
	}
	return m.status(), nil
}

// supersede begins another epoch of what is known.
func (e *entry) supersede() memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.epoch++
	return e.memory
}

// Forget drops what is in memory of a name, to be loaded again.
func (b *Broker) Forget(name string) {
	b.mu.RLock()
	e := b.names[name]
	b.mu.RUnlock()
	if e != nil {
		e.reset()
	}
}
