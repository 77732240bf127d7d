package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	failures := []error{b.loadUnseen(ctx, s)}

	due := b.due(time.Now())
	results := make(chan error, len(due))
	begun := 0
	for begun < len(due) && b.takeSlot(ctx) {
		flight := b.renewed(ctx, s, due[begun].entry, due[begun].epoch, memory.dueUnasked)
		begun++
		go func() {
			result := <-flight
			<-b.slots
			results <- result.Err
		}()
	}
	for range begun {
		select {
		case err := <-results:
			var storage *StorageError
			if errors.As(err, &storage) {
				failures = append(failures, err)
			}
		case <-ctx.Done():
			return errors.Join(failures...)
		}
	}
	return errors.Join(failures...)
}

// takeSlot waits until another renewal may begin in the background.
func (b *Broker) takeSlot(ctx context.Context) bool {
	select {
	case b.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// task is a name for which something is due, and since when.
type task struct {
	entry *entry
	epoch uint64
	since time.Time
}

// due is what is due now, the longest overdue first.
func (b *Broker) due(now time.Time) []task {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var tasks []task
	for _, e := range b.names {
		if m := e.look(); m.dueUnasked(now) {
			// One that keeps failing goes to the back.
			tasks = append(tasks, task{entry: e, epoch: m.epoch, since: later(m.dueTime(), m.state.Failure.NextAttempt)})
		}
	}
	slices.SortFunc(tasks, func(a, b task) int { return a.since.Compare(b.since) })
	return tasks
}

// dueUnasked is whether a renewal is due though nobody asks for one now.
func (m memory) dueUnasked(now time.Time) bool {
	if m.credential == nil || m.held(now) {
		return false
	}
	since := m.dueTime()
	return !since.IsZero() && !now.Before(since)
}

// dueTime is when a renewal is due though nobody asks for one; zero is never.
func (m memory) dueTime() time.Time {
	if m.unsaved != nil {
		return m.retryTime
	}
	at := keepaliveTime(m.credential, m.state)
	// A token that nobody has read since it was issued is left to die.
	if token := m.state.token(); m.wanted && !token.Final {
		refresh := refreshTime(token)
		if refresh.IsZero() { // somebody asked, and there was none to be had
			refresh = m.state.Failure.Time
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
			b.entry(name)
		}
		b.listed = true
	}
	var failures []error
	for _, e := range b.unseen() {
		if ctx.Err() != nil {
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
	var entries []*entry
	for _, e := range b.names {
		if m := e.look(); m.credential == nil && !m.absent {
			entries = append(entries, e)
		}
	}
	return entries
}

func (b *Broker) loadOne(ctx context.Context, s logical.Storage, e *entry) error {
	select {
	case e.exclusive <- struct{}{}:
		defer e.release()
	default:
		return nil // whoever has the right to it loads it
	}
	_, err := b.current(ctx, s, e)
	var storage *StorageError
	switch {
	case errors.As(err, &storage):
		return err
	case err != nil && !errors.Is(err, ErrUnknown):
		b.source.Logger().Warn("a credential cannot be used", "name", e.name, "error", err)
	}
	return nil
}
