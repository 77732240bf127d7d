package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

const (
	// sweepTimeout is how long one sweep may take: Vault holds a lock meanwhile that
	// others want, and sweeps again a minute after.
	sweepTimeout = 30 * time.Second

	// loadTimeout is the part of it for loading what nobody has asked for yet.
	loadTimeout = 10 * time.Second

	// sweepWorkers is how many renewals a sweep has under way at once.
	sweepWorkers = 16
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
	loadErr := b.loadUnseen(ctx, s)

	due := b.due(time.Now())
	failures := make([]error, len(due))
	var workers errgroup.Group
	workers.SetLimit(sweepWorkers)
	for i, task := range due {
		workers.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			select {
			case result := <-b.renewed(ctx, s, task.entry, task.epoch, memory.dueUnasked):
				var storage *StorageError
				if errors.As(result.Err, &storage) {
					failures[i] = result.Err
				}
			case <-ctx.Done():
			}
			return nil
		})
	}
	_ = workers.Wait()
	return errors.Join(append(failures, loadErr)...)
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
			tasks = append(tasks, task{entry: e, epoch: m.epoch, since: m.dueTime()})
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
	for _, e := range b.unseen() {
		if ctx.Err() != nil {
			break // the next sweep goes on
		}
		if err := b.loadOne(ctx, s, e); err != nil {
			return err
		}
	}
	return nil
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
	case err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, errSuperseded):
		b.source.Logger().Warn("a credential cannot be used", "name", e.name, "error", err)
	}
	return nil
}
