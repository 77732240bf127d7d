package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

const (
	// sweepTimeout is how long one sweep may take: Vault holds a lock meanwhile that
	// others want, and sweeps again a minute after.
	sweepTimeout = 30 * time.Second

	// loadTimeout is the part of it for loading what nobody has asked for yet.
	loadTimeout = 10 * time.Second

	// sweepRenewals is how many renewals sweeps have under way at once.
	sweepRenewals = 16
)

// Sweep does what is due though nobody asks: it renews tokens that are in use ahead
// of their readers, exchanges credentials that would die of disuse, and stores what
// could not be stored. It ends within 30 s, and leaves the rest to the next one;
// a renewal that has begun goes on.
//
// Its error joins what storage would not do. What vendors would not do is in the
// log and in each credential's status.
func (b *Broker) Sweep(ctx context.Context, s logical.Storage) error {
	if b.isClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	b.noteStep(time.Now())
	failures := []error{b.loadUnseen(ctx, s)}

	due := b.due(time.Now())
	results := make(chan error, len(due))
	begun := 0
	for begun < len(due) && b.takeSlot(ctx) {
		tasks := due[begun].tasks
		begun++
		go func() {
			defer func() { <-b.slots }()
			results <- b.work(ctx, s, tasks)
		}()
	}
	for range begun {
		select {
		case err := <-results:
			failures = append(failures, err)
		case <-b.closed:
			return errors.Join(failures...)
		case <-ctx.Done():
			return errors.Join(failures...)
		}
	}
	return errors.Join(failures...)
}

// noteStep logs that this server's clock has been stepped since the last sweep.
func (b *Broker) noteStep(now time.Time) {
	if by := stepped(b.swept, now); !b.swept.IsZero() && by.Abs() > stepWorthLogging {
		b.source.Logger().Warn("this server's clock has been stepped, or the machine was suspended", "by", by.Round(time.Millisecond).String())
	}
	b.swept = now
}

// takeSlot waits until another renewal may begin in the background.
func (b *Broker) takeSlot(ctx context.Context) bool {
	select {
	case b.slots <- struct{}{}:
		return true
	case <-b.closed:
		return false
	case <-ctx.Done():
		return false
	}
}

// work does a name's tasks one after the other, as the name has one exclusive right. Its
// error is what storage would not do.
func (b *Broker) work(ctx context.Context, s logical.Storage, tasks []task) error {
	for _, t := range tasks {
		if ctx.Err() != nil {
			break // the next sweep goes on
		}
		ended, err := await(b.renewed(ctx, s, t))
		if !ended {
			b.source.Logger().Warn("a renewal has not ended by its deadline", "name", t.entry.name)
			break
		}
		if storage.IsError(err) {
			return err
		}
	}
	return nil
}

// await returns what came of a renewal, unless it does not end by its own deadline, and so
// must not keep its slot.
func await(flight <-chan singleflight.Result) (ended bool, err error) {
	timer := time.NewTimer(renewTimeout + time.Second)
	defer timer.Stop()
	select {
	case result := <-flight:
		return true, result.Err
	case <-timer.C:
		return false, nil
	}
}

// due is what is due for one name, and since when.
type due struct {
	tasks []task
	since time.Time
}

// due is what is due now, the longest overdue first.
func (b *Broker) due(now time.Time) []due {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var all []due
	for _, e := range b.names {
		if d := b.dueOf(e, now); len(d.tasks) > 0 {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b due) int { return a.since.Compare(b.since) })
	return all
}

// dueOf is what is due for a name; nothing if that cannot be told without a panic.
func (b *Broker) dueOf(e *entry, now time.Time) (d due) {
	defer b.contain(e, new(error)) // which it logs
	e.forget(now)
	return e.due(now)
}

// forget drops what is in memory of roles that nobody reads by any more.
func (e *entry) forget(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := &e.memory
	m.early = without(m.early, func(_ string, until time.Time) bool { return now.After(until) })
	m.dedicated = without(m.dedicated, func(_ string, f Failure) bool { return now.After(f.seen(now).NextAttempt.Add(refusalMemory)) })
	for scope, u := range e.uses {
		if !u.wanted && !u.asked && now.Sub(u.last) > refusalMemory {
			delete(e.uses, scope)
		}
	}
}

// due is what is due for the name: for its own scope, which a keepalive may be due for
// though nobody asks, and for those that somebody has asked for. A scope that fails is left
// once its readers have gone: its role may have been deleted.
func (e *entry) due(now time.Time) due {
	e.mu.Lock()
	defer e.mu.Unlock()
	var d due
	m := e.memory
	// While a renewal is under way there is nothing to do. Dedicated exchanges may follow one
	// another without a pause, and must not keep others from their turn.
	if m.credential == nil || !e.renewal.since.IsZero() && !e.renewal.dedicated {
		return d
	}
	check := func(scope string, u use) {
		v := m.view(scope)
		if u.wanted && u.abandoned(v, now) {
			delete(e.uses, scope)
			u = use{}
		}
		if !v.dueUnasked(now, u.wanted) {
			return
		}
		d.tasks = append(d.tasks, task{entry: e, epoch: m.epoch, scope: v.scope, unasked: true, wanted: u.wanted})
		// A name that keeps failing goes to the back.
		since := later(v.dueTime(now, u.wanted), v.failure(now).NextAttempt)
		if d.since.IsZero() || since.Before(d.since) {
			d.since = since
		}
	}
	check(ownScope, e.uses[ownScope])
	for scope, u := range e.uses {
		if scope != ownScope {
			check(scope, u)
		}
	}
	if m.unsaved != nil {
		for scope := range m.unsaved.scopes {
			if _, isChecked := e.uses[scope]; !isChecked && scope != ownScope {
				check(scope, use{})
			}
		}
	}
	return d
}

// dueUnasked is whether a renewal is due though nobody asks for one now.
func (v view) dueUnasked(now time.Time, wanted bool) bool {
	since := v.dueTime(now, wanted)
	return !v.held(now) && !since.IsZero() && !now.Before(since)
}

// dueTime is when a renewal is due though nobody asks for one; zero is never. wanted
// is whether somebody has read the token since it was issued: one that nobody has is
// left to die.
func (v view) dueTime(now time.Time, wanted bool) time.Time {
	if w := v.unwritten(); w != nil {
		return w.retryTime
	}
	at := keepaliveTime(v.credential, v.state, now)
	if token := v.token(); wanted && !token.NotRenewable {
		refresh := refreshTime(token.At(now))
		if token.IssueTime.IsZero() { // somebody asked, and there was none to be had
			refresh = earlier(v.failure(now).Time, now)
		}
		if at.IsZero() || refresh.Before(at) {
			at = refresh
		}
	}
	return at
}

// loadUnseen loads the names in storage that are not in memory: after the start,
// those that nobody has asked for yet.
func (b *Broker) loadUnseen(ctx context.Context, s logical.Storage) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if !b.listed {
		names, err := b.source.Names(ctx, s)
		if err != nil {
			return err
		}
		for _, name := range names {
			b.stored(name)
		}
		b.listed = true
	}
	var failures []error
	for _, e := range b.unseen() {
		if ctx.Err() != nil || b.isClosed() {
			break // the next sweep goes on
		}
		failures = append(failures, b.loadOne(ctx, s, e))
	}
	return errors.Join(failures...)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (b *Broker) unseen() []*entry {
	b.mu.RLock()
	defer b.mu.RUnlock()
	now := time.Now()
	var entries []*entry
	for _, e := range b.names {
		if m := e.look(); m.credential == nil && (!m.absent || m.mayRetry(now)) {
			entries = append(entries, e)
		}
	}
	return entries
}

func (b *Broker) loadOne(ctx context.Context, s logical.Storage, e *entry) error {
	select {
	case e.exclusive <- struct{}{}:
		defer b.leave(e)
	default:
		return nil // whoever has the right to it loads it
	}
	defer b.contain(e, new(error)) // which it logs
	_, err := b.current(ctx, s, e)
	switch {
	case storage.IsError(err):
		return err
	case err != nil && !errors.Is(err, ErrUnknown):
		b.source.Logger().Warn("a credential cannot be used", "name", e.name, "error", err)
	}
	return nil
}
