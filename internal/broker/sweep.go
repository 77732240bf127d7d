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
	due, err := b.dueTasks(ctx, s)
	failures := []error{err}
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

// logStep logs that this server's clock has been stepped since the last sweep. What was due by the former clock may be due
// at another time.
func (b *Broker) logStep(now time.Time) {
	if by := clockStep(b.swept, now); !b.swept.IsZero() && by.Abs() > minLoggedStep {
		b.lookAgain(now)
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

// dueTasks returns the due tasks of all names, longest overdue first. It looks only at names that were touched since the
// last sweep, and at those whose time has come. The error joins those of storage.
func (b *Broker) dueTasks(ctx context.Context, s logical.Storage) ([]nameTasks, error) {
	err := b.listAll(ctx, s)
	var all []nameTasks
	look := func(r *record) {
		if due := b.lookAt(r, time.Now()); len(due.tasks) > 0 {
			all = append(all, due)
		}
	}
	now := time.Now()
	for _, r := range b.touches.take() {
		if r.mayLoad(now) {
			b.lookAgainAt(r.name, now)
		} else {
			look(r)
		}
	}
	err = errors.Join(err, b.wake(ctx, s, now, look))
	slices.SortFunc(all, func(a, b nameTasks) int { return a.since.Compare(b.since) })
	return all, err
}

// removeUnused removes what is cached of roles that are no longer read. It begins the look at the record.
func (r *record) removeUnused(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isTouched = false
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
	for scope := range r.scopesToRenew() {
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

// nextLook returns when the sweep must look at the record again unless it is touched, and what a look finds now. The time is
// zero for never.
func (r *record) nextLook(now time.Time) (next time.Time, found finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.current
	switch snap.presence {
	case absent:
		return time.Time{}, found
	case unloaded, unusable:
		found.isKnown = snap.presence == unusable
		found.isIdle = isVariant(r.name) && snap.presence == unusable && !now.Before(snap.panicPause)
		if snap.presence == unloaded {
			next = now
		}
		return maxTime(next, snap.panicPause), found
	case loaded:
	}
	later := func(t time.Time) {
		if t.After(now) {
			next = earliest(next, t)
		}
	}
	for scope := range r.scopesToRenew() {
		_, at := snap.of(scope).decide(demand{isBackground: true, inUse: r.uses[scope].inUse}, now)
		later(at)
		if u, has := r.uses[scope]; has && !u.inUse && !u.isAwaited {
			later(now.Add(failureRetention)) // removeUnused
		}
	}
	for _, failure := range snap.state.ScopeFailures {
		later(failure.asOf(now).NextAttempt.Add(failureRetention + 1)) // Failure.isOutdated
	}
	if failure := snap.delegated.failure.asOf(now); failure.Count > 0 {
		later(failure.NextAttempt.Add(failureRetention + 1)) // Status.addDelegated
	}
	if len(snap.early) > 0 || len(snap.roleFailures) > 0 {
		later(now.Add(failureRetention))
	}
	found.isKnown, found.expiry = true, snap.expiry(now)
	if !found.expiry.Unused.IsZero() {
		later(found.expiry.Unused.Add(-UnusedHorizon))
	}
	if !found.expiry.Secret.IsZero() {
		later(found.expiry.Secret.Add(-SecretHorizon))
	}
	if status := snap.credential.Rotation.at(now); status != nil && !status.DueTime.IsZero() {
		later(status.DueTime)
		found.isRotationDue = !now.Before(status.DueTime)
	}
	if isVariant(r.name) {
		idleFrom := r.idleFromLocked(now)
		later(idleFrom)
		found.isIdle = !idleFrom.IsZero() && !now.Before(idleFrom)
	}
	return next, found
}

// evictTime returns when to try to evict the record that is needed now.
func (r *record) evictTime(now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isVariant(r.name) || r.current.presence != loaded && r.current.presence != unusable {
		return time.Time{}
	}
	return maxTime(r.needed.Add(idleTime), now.Add(evictRetry))
}

// scopesToRenew returns the scopes that the sweep may renew. The caller holds r.mu.
func (r *record) scopesToRenew() map[string]bool {
	scopes := map[string]bool{ownScope: true}
	addKeys(scopes, r.uses)
	if unsaved := r.current.unsaved; unsaved != nil {
		addKeys(scopes, unsaved.scopeWrites)
	}
	return scopes
}

// listAll adds the names in storage, once. Nothing may have read them since the start.
func (b *Broker) listAll(ctx context.Context, s logical.Storage) error {
	if b.listed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	names, err := b.source.Names(ctx, s)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, name := range names {
		b.list(name, now)
	}
	b.listed = true
	return nil
}

// mayLoad reports whether the sweep must load the record.
func (r *record) mayLoad(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.current
	isPauseOver := !snap.panicPause.IsZero() && !now.Before(snap.panicPause)
	return snap.presence == unloaded || snap.presence == unusable && isPauseOver
}
