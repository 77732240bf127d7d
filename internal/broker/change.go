package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Change is an operator's change of a credential. Until it ends, nothing else exchanges the
// credential or changes its state in storage.
type Change struct {
	// Credential is the stored credential; nil if there is none, or if it cannot be opened.
	Credential *Credential

	// Known is the latest state; nil if there is none.
	Known *State

	broker      *Broker
	storage     logical.Storage
	record      *record
	snapshot    snapshot
	verified    []Exchange
	isCommitted bool
	unlock      func()
}

// Changes holds the changes of several credentials, which begin and end together.
type Changes struct {
	all    map[string]*Change
	cancel context.CancelFunc
}

// BeginWrites begins changes that store credentials. Callers use the returned context for the
// changes, and call End at the end. The context does not end with the request, since the vendor may
// rotate a refresh token when it verifies a credential.
//
// The errors are ErrBusy, ErrClosed, of type *storage.Error, and of type *storage.NewerFormatError,
// since a write would lose what a newer engine stored.
func (b *Broker) BeginWrites(ctx context.Context, s logical.Storage, names ...string) (context.Context, *Changes, error) {
	return b.begin(ctx, s, names, renewTimeout+time.Duration(len(names))*exchangeTimeout, func(err error) bool {
		var newer *storage.NewerFormatError
		return errors.As(err, &newer)
	})
}

// BeginDelete is BeginWrites for a change that deletes a credential. It also begins if a newer
// engine wrote the state.
func (b *Broker) BeginDelete(ctx context.Context, s logical.Storage, name string) (context.Context, *Changes, error) {
	return b.begin(ctx, s, []string{name}, renewTimeout, func(error) bool { return false })
}

func (b *Broker) begin(ctx context.Context, s logical.Storage, names []string, timeout time.Duration, prevents func(error) bool) (context.Context, *Changes, error) {
	cs := &Changes{all: map[string]*Change{}, cancel: func() {}}
	admission := pacing.Of(ctx)
	if admission == nil {
		admission = pacing.NewAdmission(strings.Join(names, ","), pacing.Operator)
	}
	for _, name := range inOrder(names) {
		r, unlock, err := b.lockRecord(ctx, name, admission.Priority())
		if err != nil {
			cs.End()
			return nil, nil, err
		}
		// Readers with a valid token must not wait for a newer one, also while this change waits
		// for the next lock.
		r.runAs(operation{since: time.Now()}, admission)
		cs.all[name] = &Change{broker: b, storage: s, record: r, unlock: unlock}
	}
	ctx, cs.cancel = context.WithTimeout(context.WithoutCancel(pacing.With(ctx, admission)), timeout)
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

// End ends the changes. If none of Committed, SettingsCommitted and Deleted was called for a
// change, its credential stays as it was.
func (cs *Changes) End() {
	for _, c := range cs.all {
		for _, x := range c.verified {
			c.broker.reportFinished(x, c.isCommitted)
		}
		c.record.setRunning(operation{})
		c.unlock()
	}
	cs.cancel()
}

// load reads the latest state. If that fails, the change must not begin, because storage may hold
// the only refresh token that works.
func (c *Change) load(ctx context.Context, prevents func(error) bool) error {
	c.record.endPanicPause()
	snap, err := c.broker.load(ctx, c.storage, c.record)
	if storage.IsError(err) {
		return err
	}
	c.snapshot, c.Credential = snap, snap.credential
	if c.Known = snap.latestState(); c.Known != nil {
		return nil
	}
	// The credential does not exist or cannot be opened.
	if c.Known, err = getState(ctx, c.storage, c.record.name); storage.IsError(err) || prevents(err) {
		return err
	}
	return nil
}

// Probe checks that storage accepts writes, before the caller sends the vendor what it takes only once. The error
// is of type *storage.Error.
func (c *Change) Probe(ctx context.Context) error { return probe(ctx, c.storage) }

// Verify exchanges a credential that is not stored yet. The returned state must be stored with the
// credential. It may have a new grant even if the exchange failed. The errors are of type
// *provider.Error and *storage.Error, and ErrBusy if too little time is left for an exchange.
func (c *Change) Verify(ctx context.Context, credential *Credential, last provider.Grant) (*State, error) {
	if err := probeWritable(ctx, c.storage, last); err != nil {
		return Unverified(credential, last), err
	}
	// The vendor's answer must be stored within the time of the change.
	if deadline, _ := ctx.Deadline(); time.Until(deadline) < exchangeTimeout {
		return Unverified(credential, last), ErrBusy
	}
	snap := c.record.get()
	state, x, _ := callVendor(snap.redacting(ctx), credential, Unverified(credential, last), ownScope, snap.replacedTokens()[ownScope])
	c.broker.logSkew(c.record, state)
	if token, now := state.Tokens[ownScope], time.Now(); x.Err == nil && token.RenewableFrom.IsZero() && leaseTTL(token, now) == 0 {
		x.Err = unusableToken(token, credential.TTL, now, false)
	}
	x.IsVerification = true
	c.broker.report(x)
	c.verified = append(c.verified, x)
	if x.Err != nil {
		return state, x.Err
	}
	return state, nil
}

// Committed reports that another credential is stored under the name. Older tokens are no longer
// served.
func (c *Change) Committed() { c.replaced(unloaded) }

// Deleted reports that the credential is deleted.
func (c *Change) Deleted() { c.replaced(absent) }

func (c *Change) replaced(p presence) {
	c.broker.outdate(c.record.name, false, func(r *record) { r.reset(p) }, (*record).forget)
	c.record.keepUnsaved(nil, nil, nil)
	c.isCommitted = true
}

// SettingsCommitted reports that fields that do not affect an exchange are stored. The grant, the
// tokens and the failures of the credential stay.
func (c *Change) SettingsCommitted() { c.broker.Unload(c.record.name) }

// Unload makes the next request load a credential again. What is cached of it in storage stays.
func (b *Broker) Unload(name string) {
	b.outdate(name, true, (*record).reload, (*record).unload)
}

// Save stores the vendor's answer for the stored credential while the change goes on.
func (c *Change) Save(ctx context.Context, answered *State) error {
	snap := c.record.get()
	if snap.presence != loaded {
		return putState(ctx, c.storage, c.record.name, answered)
	}
	_, err := c.broker.save(ctx, c.storage, c.record, snap, ownScope, answered)
	return err
}

// Failed reports that the change failed with err. answered, unless nil, is the vendor's answer for
// the credential that stays. Failed stores it, or keeps it in memory if storage fails. Failed
// returns err, joined with the error of storing answered.
func (c *Change) Failed(ctx context.Context, answered *State, err error) error {
	switch {
	case storage.IsError(err): // the write may have succeeded
		c.record.reset(unloaded)
		if answered != nil {
			c.record.keepUnsaved(c.storage, answered, err)
		}
	case answered != nil:
		return errors.Join(err, c.saveAfter(ctx, answered))
	}
	return err
}

// saveAfter stores the vendor's answer, however long the change has taken.
func (c *Change) saveAfter(ctx context.Context, answered *State) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if c.snapshot.presence == loaded {
		_, err := c.broker.save(ctx, c.storage, c.record, c.snapshot, ownScope, answered)
		return err
	}
	err := putState(ctx, c.storage, c.record.name, answered)
	if err == nil {
		answered = nil
	}
	c.record.keepUnsaved(c.storage, answered, err)
	return err
}
