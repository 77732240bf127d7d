package credential

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/schedule"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Rotation is what storage has of the rotation of a secret. It is part of the entry of the credential or the
// client, so that each step of a rotation is one write:
//
//  1. Pending without Fields: the vendor is about to be asked for a new secret. The record is written ahead of
//     the request, so that what an interrupted one leaves at the vendor is found by its name, and removed.
//  2. Pending with Fields: the vendor has answered. The new secret is tried by an exchange until it is accepted.
//  3. The new secret is among the fields of the entry, and the replaced one in Formers.
//  4. Formers is empty again, as the vendor has removed the former secret.
//
// Whatever happens between two writes, the next run goes on from the last one.
type Rotation struct {
	// Version is a UUID that changes with each new secret.
	Version string `json:"version,omitempty"`

	Pending *PendingSecret `json:"pending,omitempty"`

	// Lost are secrets that the vendor may have issued without an answer. It may list one only minutes later.
	Lost []LostSecret `json:"lost,omitempty"`

	// Formers are replaced secrets that the vendor may still accept, latest first.
	Formers []FormerSecret `json:"formers,omitempty"`

	// LastTime is when a secret was last replaced, and LastBy who asked for it; "" for the schedule.
	LastTime time.Time `json:"last_time,omitzero"`
	LastBy   string    `json:"last_by,omitempty"`

	// Failures counts the failed attempts in a row, whether to replace or to remove a secret.
	Failures    int       `json:"failures,omitempty"`
	Error       string    `json:"error,omitempty"`
	ErrorTime   time.Time `json:"error_time,omitzero"`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
}

// A PendingSecret is a new secret that is not in use yet.
type PendingSecret struct {
	provider.NewSecret
	By string `json:"by,omitempty"`

	// Grace is how long the secret that it replaces stays valid.
	Grace time.Duration `json:"grace,omitempty"`

	// IsOvertaken is whether an operator has written another secret meanwhile, so that this one is not needed.
	IsOvertaken bool `json:"is_overtaken,omitempty"`

	// Fields are those of the credential with the new secret, from CreateTime on; nil until the vendor has answered.
	Fields     map[string]any `json:"fields,omitempty"`
	CreateTime time.Time      `json:"create_time,omitzero"`
}

// A LostSecret is one that the vendor may have issued.
type LostSecret struct {
	provider.NewSecret
	RemoveTime time.Time `json:"remove_time"` // when to look for it
}

// A FormerSecret is a replaced secret.
type FormerSecret struct {
	Version    string         `json:"version,omitempty"`
	Fields     map[string]any `json:"fields"` // the replaced ones
	Grace      time.Duration  `json:"grace,omitempty"`
	RemoveTime time.Time      `json:"remove_time"`

	// IsEnded is whether the vendor has ended it itself. Until RemoveTime, not all of its servers may know the new one.
	IsEnded bool `json:"is_ended,omitempty"`
}

const (
	// rotationPatience is how long the vendor may refuse a new secret before the rotation has failed. Some vendors
	// need minutes until all of their servers know one.
	rotationPatience = 15 * time.Minute

	// minRotationRetry and maxRotationRetry bound the pause after a failed attempt.
	minRotationRetry = time.Minute
	maxRotationRetry = time.Hour

	// minRejectedRetry is the shortest pause after the vendor has rejected the secret.
	minRejectedRetry = 5 * time.Minute

	// DegradedRotations is how many attempts fail in a row before the status shows it as its state.
	DegradedRotations = 3

	// minLifetime is the shortest lifetime of a new secret, so that an outage of some days does not end the last one.
	minLifetime = 30 * 24 * time.Hour

	defaultGrace = 24 * time.Hour
	minGrace     = time.Hour
	graceField   = "rotation_grace"
)

// check returns an error for a Rotation that the engine never writes.
func (r *Rotation) check() error {
	switch {
	case r == nil:
		return nil
	case r.Failures < 0:
		return errors.New("rotation with a negative number")
	case r.Pending != nil && r.Pending.Name == "":
		return errors.New("pending secret without a name")
	}
	for _, former := range r.Formers {
		if len(former.Fields) == 0 {
			return errors.New("former secret without fields")
		}
	}
	return nil
}

// A rotationPlan is when a secret is replaced, as the operator set it.
type rotationPlan struct {
	schedule.Schedule
	grace time.Duration
}

// rotationPlan returns the plan in the fields. Its error is of kind Invalid.
func (c *commonFields) rotationPlan() (rotationPlan, error) {
	p := rotationPlan{Schedule: schedule.Schedule{Period: c.RotationPeriod.Duration(), Cron: c.RotationSchedule, Window: c.RotationWindow.Duration()}, grace: defaultGrace}
	if err := p.Check(); err != nil {
		return p, err
	}
	interval, _ := p.Intervals()
	if interval != 0 {
		p.grace = min(p.grace, interval/2)
	}
	if c.RotationGrace == nil {
		return p, nil
	}
	p.grace = c.RotationGrace.Duration()
	return p, p.checkGrace(p.grace)
}

// checkGrace returns an error of kind Invalid for a grace that does not fit the plan.
func (p rotationPlan) checkGrace(grace time.Duration) error {
	interval, _ := p.Intervals()
	switch {
	case grace < minGrace && (interval == 0 || grace < interval/2):
		return provider.Errorf(provider.Invalid, "%s: must be at least %s, so that tokens in use stay valid; give 0 to config/<vendor>/<name>/rotate after a leak", graceField, inUnits(minGrace))
	case interval != 0 && grace >= interval:
		return provider.Errorf(provider.Invalid, "%s: must be shorter than the time between two rotations, %s", graceField, inUnits(interval))
	}
	return nil
}

// checkRotation returns an error of kind Invalid if the credential has a plan of a rotation that is not possible.
func (c *storedCredential) checkRotation(opened *broker.Credential) error {
	for _, field := range rotationFields {
		if c.Fields[field] == nil {
			continue
		}
		if c.client != nil {
			return provider.Errorf(provider.Invalid, "%s: the secret is that of %s; set the field there", field, c.client.path())
		}
		plan, err := c.rotationPlan()
		if err == nil {
			err = plan.check(field, opened)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check returns an error of kind Invalid if the secret of a credential cannot be rotated as planned. field is one of those
// with the plan.
func (p rotationPlan) check(field string, opened *broker.Credential) error {
	rotation, err := provider.RotationOf(opened.Vendor)
	if err != nil {
		return provider.Errorf(provider.Invalid, "%s: %s", field, err)
	}
	lifetime := rotation.Rules().MaxLifetime
	if _, longest := p.Intervals(); lifetime > 0 && longest > lifetime-broker.SecretHorizon {
		return provider.Errorf(provider.Invalid, "%s: must be at most %s, as a secret there expires after %s", field, inUnits(lifetime-broker.SecretHorizon), inUnits(lifetime))
	}
	return nil
}

// expiryOf returns when a secret that is created now shall expire: a grace after the second rotation from now, so that a
// failing one has the time of one more, but not before minLifetime, or when the vendor wants it at the latest; the zero
// time for never.
func (p rotationPlan) expiryOf(now time.Time, longest time.Duration) time.Time {
	var expiry time.Time
	if next := p.Next(now, now); !next.IsZero() {
		expiry = p.Next(next, next).Add(p.grace)
		if shortest := now.Add(minLifetime); expiry.Before(shortest) {
			expiry = shortest
		}
	}
	if latest := now.Add(longest); longest > 0 && (expiry.IsZero() || expiry.After(latest)) {
		expiry = latest
	}
	return expiry.Truncate(time.Second).UTC()
}

// due returns when the next step of a rotation is due; the zero time if there is none. changed is when a secret last
// changed.
func (r *Rotation) due(p rotationPlan, changed, now time.Time) time.Time {
	due := p.next(changed, now)
	if r == nil {
		return due
	}
	r, isCorrected := r.corrected(now)
	if isCorrected {
		return now
	}
	if r.Pending != nil {
		due = r.Pending.StartTime
	}
	for at := range r.removals() {
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	if next := r.nextAttempt(now); !due.IsZero() && due.Before(next) {
		due = next
	}
	return due
}

// leftovers describes the pending and former secrets, by those of their fields that are not secret by the schemas.
func (r *Rotation) leftovers(schemas map[string]*framework.FieldSchema) []string {
	if r == nil {
		return nil
	}
	var all []string
	describe := func(what string, fields map[string]any) {
		for _, name := range sortedKeys(fields) {
			if text, isText := fields[name].(string); isText && len(text) <= 100 && schemas[name] != nil && !IsSecret(schemas[name]) && name != "expires" {
				what += fmt.Sprintf(" %s=%s", name, provider.Quote(text))
			}
		}
		all = append(all, what)
	}
	if r.Pending != nil {
		describe("a new secret named "+r.Pending.Name, r.Pending.Fields)
	}
	for _, lost := range r.Lost {
		describe("perhaps a secret named "+lost.Name, nil)
	}
	for _, former := range r.Formers {
		if !former.IsEnded {
			describe("a former secret", former.Fields)
		}
	}
	return all
}

// next returns when the rotation may begin that follows a change of the secret; the zero time if there is none.
func (p rotationPlan) next(changed, now time.Time) time.Time {
	return p.Next(p.countsFrom(changed, now), now)
}

// overdueSince returns since when the rotation is overdue that follows a change of the secret; the zero time if there is
// none. The windows in which it could not begin count too.
func (p rotationPlan) overdueSince(changed, now time.Time) time.Time {
	return p.First(p.countsFrom(changed, now))
}

// countsFrom returns from when on the schedule counts after a change of the secret. A change ahead of the clock was written
// by one that has been set back since: the secret may be as old as any.
func (p rotationPlan) countsFrom(changed, now time.Time) time.Time {
	if changed.Sub(now) <= clockTolerance {
		return changed
	}
	return now.Add(-p.Period)
}

// corrected returns the rotation without times that a clock has written that has been set back since, and whether there
// were some.
func (r Rotation) corrected(now time.Time) (*Rotation, bool) {
	isCorrected := false
	limit := func(t *time.Time, latest time.Duration) {
		if t.Sub(now) > latest+clockTolerance {
			*t, isCorrected = now.Add(latest).Round(0).UTC(), true
		}
	}
	r.Formers, r.Lost = slices.Clone(r.Formers), slices.Clone(r.Lost)
	for i := range r.Formers {
		limit(&r.Formers[i].RemoveTime, r.Formers[i].Grace)
	}
	for i := range r.Lost {
		limit(&r.Lost[i].RemoveTime, rotationPatience)
	}
	if r.Pending != nil {
		pending := *r.Pending
		limit(&pending.CreateTime, 0)
		r.Pending = &pending
	}
	return &r, isCorrected
}

// removals returns when secrets are removed at the vendor.
func (r *Rotation) removals() iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		for _, former := range r.Formers {
			if !yield(former.RemoveTime) {
				return
			}
		}
		for _, lost := range r.Lost {
			if !yield(lost.RemoveTime) {
				return
			}
		}
	}
}

// nextAttempt returns before when nothing is tried after a failure. One that is too far ahead was written by a clock
// that has been set back since.
func (r *Rotation) nextAttempt(now time.Time) time.Time {
	if r.NextAttempt.Sub(now) > maxRotationRetry {
		return time.Time{}
	}
	return r.NextAttempt
}

// status returns what operators see of the rotation of a credential.
func (r *Rotation) status(p rotationPlan, changed, now time.Time) *broker.RotationStatus {
	if r == nil && p.IsZero() {
		return nil
	}
	s := &broker.RotationStatus{NextTime: p.next(changed, now), OverdueSince: p.overdueSince(changed, now), DueTime: r.due(p, changed, now)}
	if r == nil {
		return s
	}
	s.LastTime, s.LastBy, s.Failures, s.Error, s.ErrorTime, s.NextAttempt = r.LastTime, r.LastBy, r.Failures, r.Error, r.ErrorTime, r.nextAttempt(now)
	s.IsDegraded = r.Failures >= DegradedRotations
	if r.Pending != nil {
		s.PendingSince = r.Pending.StartTime
	}
	s.FormerUntil = r.formerUntil()
	return s
}

// formerUntil returns when the last former secret is removed at the vendor; the zero time if there is none.
func (r *Rotation) formerUntil() time.Time {
	var last time.Time
	for _, former := range r.Formers {
		if !former.IsEnded && former.RemoveTime.After(last) {
			last = former.RemoveTime
		}
	}
	return last
}

// failed returns the rotation after a failed attempt.
func (r Rotation) failed(err error, now time.Time) *Rotation {
	r.Failures = min(r.Failures+1, 1<<20)
	r.Error, r.ErrorTime = err.Error(), now.Round(0).UTC()
	r.NextAttempt = r.ErrorTime.Add(pauseAfterFailures(r.Failures, err))
	return &r
}

// pauseAfterFailures returns the pause of a rotation after some failures in a row: from minRotationRetry, doubling to
// maxRotationRetry, or the vendor's Retry-After if that is longer.
func pauseAfterFailures(failures int, err error) time.Duration {
	pause := minRotationRetry << min(failures-1, 10)
	var failure *provider.Error
	if errors.As(err, &failure) {
		pause = max(pause, failure.RetryAfter)
		if failure.Kind == provider.Rejected { // another attempt with it hardly helps (guarantee 5)
			pause = max(pause, minRejectedRetry)
		}
	}
	return min(pause, maxRotationRetry)
}

// succeeded returns the rotation without its failures.
func (r Rotation) succeeded() *Rotation {
	r.Failures, r.Error, r.ErrorTime, r.NextAttempt = 0, "", time.Time{}, time.Time{}
	return &r
}
