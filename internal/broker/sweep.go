package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

const (
	// sweepTimeout is how long one sweep may take. Vault holds a lock meanwhile that others
	// want, and sweeps again a minute later.
	sweepTimeout = 30 * time.Second

	// loadTimeout is how much of that may be spent on loading names that no reader has asked
	// for yet.
	loadTimeout = 10 * time.Second

	// sweepRenewals is how many renewals may run in the background at once.
	sweepRenewals = 16
)

// Sweep does the background work that is due: it renews tokens in use ahead of their readers,
// exchanges credentials that would expire of disuse, and writes what storage refused before. It
// returns within 30 s, and leaves the rest to the next sweep; a renewal that has begun goes on.
//
// Its error joins the errors of storage. Vendors' failures are in the log and in each
// credential's status.
func (b *Broker) Sweep(ctx context.Context, s logical.Storage) error {
	if isClosed(b.closed) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	b.logStep(time.Now())
	failures := []error{b.loadAll(ctx, s)}

	due := b.dueTasks(time.Now())
	results := make(chan error, len(due))
	begun := 0
	for begun < len(due) && b.takeSlot(ctx) {
		tasks := due[begun].tasks
		begun++
		go func() {
			defer func() { <-b.slots }()
			results <- b.runTasks(ctx, s, tasks)
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

// logStep logs that this server's clock has been stepped since the last sweep.
func (b *Broker) logStep(now time.Time) {
	if by := clockStep(b.swept, now); !b.swept.IsZero() && by.Abs() > minLoggedStep {
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

// runTasks runs the tasks of one name one after the other, as they need the same lock. Its error
// is of type *storage.Error.
func (b *Broker) runTasks(ctx context.Context, s logical.Storage, tasks []task) error {
	for _, t := range tasks {
		if ctx.Err() != nil {
			break // the next sweep goes on
		}
		hasEnded, err := await(b.renewShared(ctx, s, t))
		if !hasEnded {
			b.source.Logger().Warn("a renewal has exceeded its deadline", "name", t.record.name)
			break
		}
		if storage.IsError(err) {
			return err
		}
	}
	return nil
}

// await waits for a renewal, but not longer than its own deadline: one that does not end by it
// must not keep its slot.
func await(renewed <-chan singleflight.Result) (hasEnded bool, err error) {
	timer := time.NewTimer(renewTimeout + time.Second)
	defer timer.Stop()
	select {
	case result := <-renewed:
		return true, result.Err
	case <-timer.C:
		return false, nil
	}
}

// nameTasks are the tasks of one name that are due, and since when.
type nameTasks struct {
	tasks []task
	since time.Time
}

// dueTasks returns what is due now, the longest overdue first.
func (b *Broker) dueTasks(now time.Time) []nameTasks {
	var all []nameTasks
	for _, r := range b.allCached() {
		if due := b.dueTasksOf(r, now); len(due.tasks) > 0 {
			all = append(all, due)
		}
	}
	slices.SortFunc(all, func(a, b nameTasks) int { return a.since.Compare(b.since) })
	return all
}

// dueTasksOf returns what is due for a name; nothing if that panics.
func (b *Broker) dueTasksOf(r *record, now time.Time) (due nameTasks) {
	defer b.contain(r, new(error)) // which it logs
	r.removeUnused(now)
	return r.dueTasks(now)
}

// removeUnused drops what is in memory for roles that are not read any more.
func (r *record) removeUnused(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := &r.current
	snap.early = withoutKeys(snap.early, func(_ string, until time.Time) bool { return now.After(until) })
	snap.roleFailures = withoutKeys(snap.roleFailures, func(_ string, f Failure) bool { return now.After(f.asOf(now).NextAttempt.Add(failureRetention)) })
	for scope, u := range r.uses {
		if !u.inUse && !u.isAwaited && now.Sub(u.lastRead) > failureRetention {
			delete(r.uses, scope)
		}
	}
}

// dueTasks returns what is due for the name: for its own scope, which may need a keepalive, for
// the scopes in use, and for those with something unsaved. A scope that fails is left once its
// readers have gone, since its role may have been deleted.
func (r *record) dueTasks(now time.Time) nameTasks {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due nameTasks
	snap := r.current
	// An operation that is running renews what is due. Dedicated exchanges do not, and may follow
	// one another without a pause, which must not put others off.
	if snap.presence != loaded || !r.running.since.IsZero() && !r.running.isDedicated {
		return due
	}
	scopes := map[string]bool{ownScope: true}
	addKeys(scopes, r.uses)
	if snap.unsaved != nil {
		addKeys(scopes, snap.unsaved.scopeWrites)
	}
	for scope := range scopes {
		v, u := snap.of(scope), r.uses[scope]
		if u.inUse && u.isAbandoned(v, now) {
			delete(r.uses, scope)
			u = use{}
		}
		d := demand{isBackground: true, inUse: u.inUse}
		act, since := v.decide(d, now)
		if act != renewNow {
			continue
		}
		due.tasks = append(due.tasks, task{record: r, epoch: snap.epoch, scope: v.scope, demand: d})
		// A name that keeps failing goes to the back.
		since = maxTime(since, v.lastFailure(now).NextAttempt)
		if due.since.IsZero() || since.Before(due.since) {
			due.since = since
		}
	}
	slices.SortFunc(due.tasks, func(a, b task) int { return strings.Compare(a.scope, b.scope) }) // own scope first
	return due
}

// loadAll loads the names in storage that are not in memory: after the start, those that no
// reader has asked for yet.
func (b *Broker) loadAll(ctx context.Context, s logical.Storage) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if !b.listed {
		names, err := b.source.Names(ctx, s)
		if err != nil {
			return err
		}
		for _, name := range names {
			b.addListed(name)
		}
		b.listed = true
	}
	var failures []error
	now := time.Now()
	for _, r := range b.allCached() {
		snap := r.get()
		isPauseOver := !snap.panicPause.IsZero() && !now.Before(snap.panicPause)
		mayLoad := snap.presence == unloaded || snap.presence == unusable && isPauseOver
		if !mayLoad {
			continue
		}
		if ctx.Err() != nil || isClosed(b.closed) {
			break // the next sweep goes on
		}
		failures = append(failures, b.loadUnlocked(ctx, s, r.name))
	}
	return errors.Join(failures...)
}

// loadUnlocked loads a name unless its lock is held, by somebody who loads it anyway. Its error
// is of type *storage.Error.
func (b *Broker) loadUnlocked(ctx context.Context, s logical.Storage, name string) error {
	unlockName, isLocked := b.locks.tryLock(name)
	if !isLocked {
		return nil
	}
	r, unlock := b.withRecord(name, unlockName)
	defer unlock()
	defer b.contain(r, new(error)) // which it logs
	_, err := b.load(ctx, s, r)
	switch {
	case storage.IsError(err):
		return err
	case err != nil && !errors.Is(err, ErrUnknown):
		b.source.Logger().Warn("a credential cannot be used", "name", name, "error", err)
	}
	return nil
}
