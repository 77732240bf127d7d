package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Change is an operator's change to a credential. From its beginning to its end, no other
// exchange of the credential is in flight, and nothing else changes what is stored of it.
type Change struct {
	// Known is what is known of the credential so far; nil if nothing is.
	Known *State

	broker   *Broker
	storage  logical.Storage
	entry    *entry
	memory   memory
	verified []Exchange
	isStored bool
}

// Changes are those of some credentials, which begin and end together.
type Changes struct {
	all    map[string]*Change
	cancel context.CancelFunc
}

// BeginWrites begins changes that store credentials. Its context is for what they do: once
// begun, a change must be seen through, since the vendor may rotate a refresh token that verifies
// a credential. End ends the changes.
//
// Its errors are ErrBusy and ErrClosed, of type *storage.Error, and of type
// *storage.NewerFormatError: what a newer engine knows of the credential would be lost.
func (b *Broker) BeginWrites(ctx context.Context, s logical.Storage, names ...string) (context.Context, *Changes, error) {
	return b.begin(ctx, s, names, renewTimeout+time.Duration(len(names))*exchangeTimeout, func(err error) bool {
		var newer *storage.NewerFormatError
		return errors.As(err, &newer)
	})
}

// BeginDelete is BeginWrites for a change that deletes a credential, whatever wrote its state.
func (b *Broker) BeginDelete(ctx context.Context, s logical.Storage, name string) (context.Context, *Changes, error) {
	return b.begin(ctx, s, []string{name}, renewTimeout, func(error) bool { return false })
}

func (b *Broker) begin(ctx context.Context, s logical.Storage, names []string, timeout time.Duration, prevents func(error) bool) (context.Context, *Changes, error) {
	cs := &Changes{all: map[string]*Change{}, cancel: func() {}}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) { // so that no two wait for each other
		e, err := b.enter(ctx, name)
		if err != nil {
			cs.End()
			return nil, nil, err
		}
		// Readers who have a valid token do not wait for a fresher one.
		e.renewing(renewal{since: time.Now()})
		cs.all[name] = &Change{broker: b, storage: s, entry: e}
	}
	ctx, cs.cancel = context.WithTimeout(context.WithoutCancel(ctx), timeout)
	for _, c := range cs.all {
		if err := c.load(ctx, prevents); err != nil {
			cs.End()
			return nil, nil, err
		}
	}
	return ctx, cs, nil
}

// Of returns the change of a name.
func (cs *Changes) Of(name string) *Change { return cs.all[name] }

// End ends the changes. Those of which nothing was said leave everything as it was.
func (cs *Changes) End() {
	defer cs.cancel()
	for _, c := range cs.all {
		for _, x := range c.verified {
			c.broker.kept(x, c.isStored)
		}
		c.entry.renewing(renewal{})
		c.broker.leave(c.entry)
	}
}

// load reads what is known of the credential. What it cannot read may hold the only refresh token
// that works.
func (c *Change) load(ctx context.Context, prevents func(error) bool) error {
	c.entry.forgive()
	m, err := c.broker.current(ctx, c.storage, c.entry)
	if storage.IsError(err) {
		return err
	}
	c.memory = m
	if c.Known = m.latest(); c.Known != nil {
		return nil
	}
	// The state of a credential that cannot be opened.
	if c.Known, err = getState(ctx, c.storage, c.entry.name); storage.IsError(err) || prevents(err) {
		return err
	}
	return nil
}

// Verify exchanges a credential that is not stored yet. The state that it returns is to be stored
// with the credential; if the exchange failed, there may be a new grant in it all the same.
func (c *Change) Verify(ctx context.Context, credential *Credential, last provider.Grant) (*State, error) {
	if err := fence(ctx, c.storage, last); err != nil {
		return Unverified(credential, last), err
	}
	// What the vendor answers must be stored within the time of the change.
	if deadline, _ := ctx.Deadline(); time.Until(deadline) < exchangeTimeout {
		return Unverified(credential, last), ErrBusy
	}
	m := c.entry.look()
	state, x, _ := call(m.guard(ctx), credential, Unverified(credential, last), ownScope, m.earlierTokens()[ownScope])
	c.broker.noteSkew(c.entry, state)
	if token, now := state.Tokens[ownScope], time.Now(); x.Err == nil && token.RenewableFrom.IsZero() && leaseTTL(token, now) == 0 {
		x.Err = unusable(token, credential.TTL, now, false)
	}
	x.Verification = true
	c.broker.tell(x)
	c.verified = append(c.verified, x)
	if x.Err != nil {
		return state, x.Err
	}
	return state, nil
}

// Stored says that another credential is stored under the name. No token that was known before is
// served from now on.
func (c *Change) Stored() { c.replaced(true) }

// Deleted says that the credential is deleted.
func (c *Change) Deleted() { c.replaced(false) }

func (c *Change) replaced(isStored bool) {
	c.entry.reset()
	c.entry.hold(nil, nil, nil)
	c.broker.setStays(c.entry, isStored)
	c.isStored = true
}

// Settled says that other settings of the same credential are stored. Its grant, its tokens and
// its failures stay.
func (c *Change) Settled() { c.entry.reload() }

// Save stores what the vendor answered for the credential that is stored, while the change goes
// on.
func (c *Change) Save(ctx context.Context, answered *State) error {
	m := c.entry.look()
	if m.credential == nil {
		return putState(ctx, c.storage, c.entry.name, answered)
	}
	_, err := c.broker.save(ctx, c.storage, c.entry, m, ownScope, answered)
	return err
}

// Failed says why the change failed. answered, if it is not nil, is what the vendor answered for
// the credential that stays: it is stored, or kept in memory if storage has failed. Failed
// returns the error, joined with that of storing answered.
func (c *Change) Failed(ctx context.Context, answered *State, err error) error {
	switch {
	case storage.IsError(err): // and may have taken the write
		c.entry.reset()
		c.broker.setStays(c.entry, true)
		if answered != nil {
			c.entry.hold(c.storage, answered, err)
		}
	case answered != nil:
		return errors.Join(err, c.saveAfter(ctx, answered))
	}
	return err
}

// saveAfter stores what the vendor answered, however long the change has taken.
func (c *Change) saveAfter(ctx context.Context, answered *State) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if c.memory.credential != nil {
		_, err := c.broker.save(ctx, c.storage, c.entry, c.memory, ownScope, answered)
		return err
	}
	// Nothing is in memory of a credential that cannot be opened.
	err := putState(ctx, c.storage, c.entry.name, answered)
	if err == nil {
		answered = nil
	}
	c.entry.hold(c.storage, answered, err)
	return err
}

// Lock waits until nothing else calls the vendor or writes for some names, and keeps it so until
// unlock. Its errors are ErrBusy and ErrClosed.
func (b *Broker) Lock(ctx context.Context, names ...string) (unlock func(), err error) {
	var held []*entry
	unlock = func() {
		for _, e := range held {
			b.leave(e)
		}
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) { // so that no two wait for each other
		e, err := b.enter(ctx, name)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, e)
	}
	return unlock, nil
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
