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
	// sweepTimeout bounds one sweep. Vault holds a lock in the meantime, and sweeps again a minute
	// later.
	sweepTimeout = 30 * time.Second

	// loadTimeout bounds the part of a sweep that loads names.
	loadTimeout = 10 * time.Second

	// sweepRenewals is the maximum number of concurrent renewals in the background.
	sweepRenewals = 16
)

// Sweep does the background work that is due: it renews tokens in use before they expire, exchanges
// credentials that would expire from disuse, and writes unsaved states. It returns within 30 s, and
// leaves the rest to the next sweep. A renewal that has begun goes on.
//
// The error joins the errors of storage. Failures of vendors are in the log and in the status of
// each credential.
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

// takeSlot waits until another renewal in the background may begin.
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

// runTasks runs the tasks of one name in sequence, since they need the same lock. The error is of
// type *storage.Error.
func (b *Broker) runTasks(ctx context.Context, s logical.Storage, tasks []task) error {
	for _, t := range tasks {
		if ctx.Err() != nil {
			break // the next sweep does the rest
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

// await waits for a renewal until its deadline. A renewal that exceeds the deadline must not keep
// its slot.
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

// A nameTasks holds the due tasks of one name, and since when they are due.
type nameTasks struct {
	tasks []task
	since time.Time
}

// dueTasks returns the due tasks of all names, longest overdue first.
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

// dueTasksOf returns the due tasks of a name; none if that panics.
func (b *Broker) dueTasksOf(r *record, now time.Time) (due nameTasks) {
	defer b.contain(r, new(error)) // contain logs it
	r.removeUnused(now)
	return r.dueTasks(now)
}

// removeUnused removes what is cached of roles that are no longer read.
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

// dueTasks returns the due tasks of the name: of its own scope, which may need a keepalive, of
// scopes in use, and of scopes with something unsaved. An abandoned scope has none, since its role
// may have been deleted.
func (r *record) dueTasks(now time.Time) nameTasks {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due nameTasks
	snap := r.current
	// A running operation renews what is due, except for dedicated exchanges. Those may follow each
	// other without a pause, and must not delay other renewals.
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
		// A name that keeps failing moves to the end.
		since = maxTime(since, v.lastFailure(now).NextAttempt)
		if due.since.IsZero() || since.Before(due.since) {
			due.since = since
		}
	}
	slices.SortFunc(due.tasks, func(a, b task) int { return strings.Compare(a.scope, b.scope) }) // own scope first
	return due
}

// loadAll loads the names in storage that are not in memory. After the start, these are the names
// that nothing has read yet.
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
			break // the next sweep does the rest
		}
		failures = append(failures, b.loadUnlocked(ctx, s, r.name))
	}
	return errors.Join(failures...)
}

// loadUnlocked loads a name unless its lock is held, whose holder loads it. The error is of type
// *storage.Error.
func (b *Broker) loadUnlocked(ctx context.Context, s logical.Storage, name string) error {
	unlockName, isLocked := b.locks.tryLock(name)
	if !isLocked {
		return nil
	}
	r, unlock := b.withRecord(name, unlockName)
	defer unlock()
	defer b.contain(r, new(error)) // contain logs it
	_, err := b.load(ctx, s, r)
	switch {
	case storage.IsError(err):
		return err
	case err != nil && isVariant(name): // the error may name the reader
		b.source.Logger().Debug("the credential cannot have a token of a reader any more", "name", name)
	case err != nil && !errors.Is(err, ErrUnknown):
		b.source.Logger().Warn("a credential cannot be used", "name", name, "error", err)
	}
	return nil
}
