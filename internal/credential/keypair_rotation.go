package credential

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// A KeypairRotation is the state of a published key pair's rotation.
type KeypairRotation struct {
	LastRotation time.Time // zero if there was none
	NextRotation time.Time // when it may begin by the schedule; zero if there is none

	// OverdueSince is since when the rotation is overdue; ahead if it is not, and zero without a schedule.
	OverdueSince time.Time

	// Failures counts the attempts that failed in a row. LastError is why the last one did, and
	// NextAttempt when the next one may begin.
	Failures    int
	LastError   string
	NextAttempt time.Time
}

// rotation returns the state of the key pair's rotation.
func (k *Keypair) rotation(now time.Time) *KeypairRotation {
	p := &k.Publication
	return &KeypairRotation{
		LastRotation: p.LastRotation, NextRotation: p.NextRotation(now), OverdueSince: k.overdueSince(now),
		Failures: p.Failures, LastError: p.LastError, NextAttempt: p.NextAttempt,
	}
}

// A rotationStep is what a rotation has to do next. Each step is one write of the key pair's entry, so that
// a server that is killed at any time leaves a state from which the next sweep goes on.
type rotationStep int

const (
	noStep rotationStep = iota

	// correctTimes replaces times that lie ahead of the clock, and were written by one that was wrong.
	correctTimes

	// dropRetired removes retired keys whose time has passed.
	dropRetired

	// publishNext generates the pending pair and publishes it.
	publishNext

	// activateNext makes the pending pair the active one.
	activateNext
)

// maxAhead is by how much a time in the past may lie ahead of the clock, which another node may have read.
const maxAhead = 5 * time.Minute

// nextStep returns the next step of the key pair's rotation, and when it is due; the zero time if there is
// none.
func (k *Keypair) nextStep(now time.Time) (rotationStep, time.Time) {
	if !k.correctedTimes(now, false) {
		return correctTimes, now
	}
	p := &k.Publication
	step, at := noStep, time.Time{}
	for _, retired := range p.Retired {
		if until := retired.Until(); at.IsZero() || until.Before(at) {
			step, at = dropRetired, until
		}
	}
	if next, begin := k.nextRotationStep(now); next != noStep && (at.IsZero() || begin.Before(at)) {
		return next, begin
	}
	return step, at
}

// nextRotationStep is nextStep for the steps to the next rotation.
func (k *Keypair) nextRotationStep(now time.Time) (rotationStep, time.Time) {
	p := &k.Publication
	switch due := p.NextRotation(now); {
	case due.IsZero():
		return noStep, due
	case k.Pending == nil:
		return publishNext, due.Add(-p.Ahead())
	}
	earliest := latest(k.possibleFrom(now), p.NextAttempt)
	due := p.NextRotation(latest(earliest, now)) // the window of an earlier time may have passed by then
	if due.IsZero() {
		return noStep, due
	}
	return activateNext, latest(earliest, due)
}

// possibleFrom returns from when on the pending pair can replace the active one.
func (k *Keypair) possibleFrom(now time.Time) time.Time {
	return latest(k.fetchedFrom(), k.Publication.roomFrom(now))
}

// overdueSince returns since when the rotation is overdue: the first time of the schedule since the last one, but not before
// it is possible; the zero time if there is no schedule. The windows in which it could not begin count too.
func (k *Keypair) overdueSince(now time.Time) time.Time {
	p := &k.Publication
	since := p.Schedule.First(p.Since)
	if since.IsZero() || k.Pending == nil {
		return since
	}
	return latest(since, k.possibleFrom(now))
}

// fetchedFrom returns from when on vendors have the pending pair, if they cache the keys for no longer than they may.
func (k *Keypair) fetchedFrom() time.Time {
	p := &k.Publication
	return latest(k.Pending.PublishedTime.Add(p.Ahead()), p.CachedUntil)
}

// isDueForActivation reports whether the schedule makes the pending pair the active one now.
func (k *Keypair) isDueForActivation() bool {
	now := wallTime()
	step, at := k.nextRotationStep(now)
	return step == activateNext && !now.Before(at)
}

func latest(times ...time.Time) time.Time {
	var last time.Time
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// correctedTimes reports whether no time lies further ahead of the clock than it can. With change, it
// corrects those that do.
func (k *Keypair) correctedTimes(now time.Time, change bool) bool {
	p := &k.Publication
	isCorrect := true
	limit := func(t *time.Time, longest time.Duration) {
		if t.After(now.Add(longest + maxAhead)) {
			isCorrect = false
			if change {
				*t = now.Add(longest)
			}
		}
	}
	limit(&p.Since, 0)
	limit(&p.LastRotation, 0)
	limit(&p.CachedUntil, longestMaxAge)
	limit(&p.NextAttempt, maxRotationRetry)
	for i := range p.Retired {
		limit(&p.Retired[i].RetiredTime, 0)
	}
	if k.Pending != nil {
		limit(&k.Pending.PublishedTime, 0)
	}
	return isCorrect
}

// status returns what operators see of the rotation at a credential that uses the key pair; nil if there is none.
func (r *KeypairRotation) status() *broker.RotationStatus {
	if r == nil || r.LastRotation.IsZero() && r.NextRotation.IsZero() {
		return nil
	}
	return &broker.RotationStatus{
		IsOfKeypair: true, LastTime: r.LastRotation, NextTime: r.NextRotation, OverdueSince: r.OverdueSince,
		Failures: r.Failures, Error: r.LastError, NextAttempt: r.NextAttempt, IsDegraded: r.Failures >= DegradedRotations,
	}
}

// AddKeypairRotation adds to the status of a credential the rotation of the key pair that it uses, unless it is neither
// in storage that can be read nor in memory.
func (st *Store) AddKeypairRotation(ctx context.Context, s logical.Storage, status *broker.Status) {
	if status.Keypair != "" && status.Rotation == nil {
		status.SetRotation(st.KeypairRotation(ctx, s, status.Keypair).status())
	}
}
