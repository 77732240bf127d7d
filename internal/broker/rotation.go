package broker

import (
	"iter"
	"maps"
	"slices"
	"time"
)

// A RotationStatus is what operators see of the rotation of a credential's secret. Its times are zero if there is
// no such time.
type RotationStatus struct {
	IsOfKeypair bool // whether it is the rotation of the key pair that the credential uses

	LastTime time.Time // when the secret was last replaced
	LastBy   string    // who asked for it; "" for the schedule
	NextTime time.Time // when the next one may begin by the schedule

	// OverdueSince is since when the rotation is overdue by the schedule; ahead if it is not, and zero without a schedule.
	OverdueSince time.Time

	// DueTime is when the background work has something to do.
	DueTime time.Time

	PendingSince time.Time // of a new secret that is not in use yet
	FormerUntil  time.Time // when the former secret is removed at the vendor

	Failures    int // in a row
	Error       string
	ErrorTime   time.Time
	NextAttempt time.Time
	IsDegraded  bool
}

// A RotationFunc returns the status of a rotation at a time. A nil RotationFunc returns nil.
type RotationFunc func(now time.Time) *RotationStatus

func (f RotationFunc) at(now time.Time) *RotationStatus {
	if f == nil {
		return nil
	}
	return f(now)
}

// A DueRotation is a credential whose rotation has something to do.
type DueRotation struct{ Vendor, Name string }

// RotationsDue returns the credentials in memory whose rotation has something to do.
func (b *Broker) RotationsDue(now time.Time) iter.Seq[DueRotation] {
	b.mu.RLock()
	names := slices.Collect(maps.Keys(b.rotationsDue))
	b.mu.RUnlock()
	return func(yield func(DueRotation) bool) {
		for _, name := range names {
			vendor, rotation := b.find(name).rotation()
			status := rotation.at(now)
			if status == nil || status.DueTime.IsZero() || now.Before(status.DueTime) {
				b.lookAgainAt(name, now) // its window has passed
			} else if !yield(DueRotation{vendor, name}) {
				return
			}
		}
	}
}

// rotation returns the vendor of a credential, and the rotation of its secret.
func (k known) rotation() (vendor string, _ RotationFunc) {
	if k.record != nil {
		if snap := k.record.get(); snap.presence == loaded {
			return snap.credential.VendorName, snap.credential.Rotation
		}
	}
	if k.summary != nil {
		return k.summary.vendor, k.summary.rotation
	}
	return "", nil
}
