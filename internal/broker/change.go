package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// ErrUnchanged is what a change returns that found nothing to change.
var ErrUnchanged = errors.New("nothing to change")

// ErrSettled is what a change returns that has stored other settings of the same credential:
// its grant, its tokens and its failures stay.
var ErrSettled = errors.New("only settings have changed")

// Change runs an operator's change to a name's configuration, with what is known of
// it so far (nil if nothing is). No exchange is in flight meanwhile; after a change
// that succeeded, or that storage may have taken, no token that was known before is
// served again, unless it says that it is ErrSettled.
//
// A change that fails may return a state all the same: what the vendor answered on
// the occasion for the credential that stays. Where a newer engine has written the state,
// there is no change, as it would be lost.
func (b *Broker) Change(ctx context.Context, s logical.Storage, name string, change func(context.Context, *State) (*State, error)) error {
	return b.change(ctx, s, name, true, change, func(err error) bool {
		var newer *storage.NewerFormatError
		return errors.As(err, &newer)
	})
}

// Remove is Change by an operator who is rid of the credential, whoever has written its
// state.
func (b *Broker) Remove(ctx context.Context, s logical.Storage, name string, change func(context.Context, *State) (*State, error)) error {
	return b.change(ctx, s, name, false, change, func(error) bool { return false })
}

// change is a change that does not begin if the state cannot be read for a reason that
// keeps it from that, or by a fault of storage. Once it is done there is a credential of the
// name, or none.
func (b *Broker) change(ctx context.Context, s logical.Storage, name string, stores bool, change func(context.Context, *State) (*State, error), keeps func(error) bool) error {
	e, err := b.enter(ctx, name)
	if err != nil {
		return err
	}
	defer b.leave(e)
	// Who wants a fresher token meanwhile, and has a good one, does not wait for it.
	e.renewing(renewal{since: time.Now()})
	defer e.renewing(renewal{})
	// Once it has begun, a change is seen through: the vendor may have replaced a
	// refresh token while verifying it.
	timeout := renewTimeout
	if stores {
		timeout += exchangeTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	e.forgive()
	m, err := b.current(ctx, s, e)
	if storage.IsError(err) {
		// What is known may hold the only refresh token that works.
		return err
	}

	known := m.latest()
	if known == nil {
		// That of a credential which cannot be opened may have the only refresh token
		// that works, too.
		if known, err = getState(ctx, s, name); storage.IsError(err) || keeps(err) {
			return err
		}
	}
	answered, err := change(ctx, known)
	defer b.keptVerified(e, err == nil)
	switch {
	case errors.Is(err, ErrUnchanged):
		return nil
	case errors.Is(err, ErrSettled):
		e.reload() // what storage has not got yet stays in memory
		return nil
	case err == nil:
		e.reset()
		e.hold(nil, nil, nil)
		b.setStays(e, stores)
	case storage.IsError(err):
		e.reset()
		b.setStays(e, true) // as storage may have taken it
		if answered != nil {
			e.hold(s, answered, err)
		}
	case answered != nil:
		return errors.Join(err, b.keep(ctx, s, e, m, answered))
	}
	return err
}

// Keep saves, in the midst of a change, what the vendor answered on the occasion for the
// credential as it is until the change is done. The caller has the exclusive right to the
// name, by Change.
func (b *Broker) Keep(ctx context.Context, s logical.Storage, name string, answered *State) error {
	e := b.entry(name)
	m := e.look()
	if m.credential == nil {
		return putState(ctx, s, name, answered)
	}
	_, err := b.save(ctx, s, e, m, ownScope, answered)
	return err
}

// keep saves what the vendor answered on the occasion of a change that failed, however
// long that took.
func (b *Broker) keep(ctx context.Context, s logical.Storage, e *entry, m memory, answered *State) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if m.credential != nil {
		_, err := b.save(ctx, s, e, m, ownScope, answered)
		return err
	}
	// Of a credential that cannot be opened there is nothing in memory.
	err := putState(ctx, s, e.name, answered)
	if err == nil {
		answered = nil
	}
	e.hold(s, answered, err)
	return err
}

// Exclusive runs f while nothing else happens to some names that has to do with the
// vendor or with what is stored.
func (b *Broker) Exclusive(ctx context.Context, f func() error, names ...string) error {
	slices.Sort(names) // so that no two wait for each other
	for _, name := range slices.Compact(names) {
		e, err := b.enter(ctx, name)
		if err != nil {
			return err
		}
		defer b.leave(e)
	}
	return f()
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

// ForgetAll drops what is in memory of all names, to be loaded again.
func (b *Broker) ForgetAll() {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, e := range b.names {
		e.reset()
	}
}
