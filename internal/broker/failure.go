package broker

import (
	"errors"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Failure is an exchange that failed.
type Failure struct {
	Kind   provider.Kind `json:"kind"`
	Reason string        `json:"reason"`
	Time   time.Time     `json:"time"`

	// Count is how many exchanges have failed in a row; zero once one has succeeded.
	Count int `json:"count,omitempty"`

	// NextAttempt is when the vendor may be called again.
	NextAttempt time.Time `json:"next_attempt,omitzero"`

	// MayBeScope is whether the vendor may have rejected only the scope.
	MayBeScope bool `json:"may_be_scope,omitempty"`

	// Widened is whether the vendor granted more than it was asked for.
	Widened bool `json:"widened,omitempty"`

	// AfterFinal is whether an earlier failure in the same row was final: an outage that follows
	// a rejection does not end it.
	AfterFinal bool `json:"after_final,omitempty"`
}

// check returns an error for a Failure that the engine does not write.
func (f Failure) check() error {
	if f.Count < 0 || f.Count >= maxCount || f.Kind < 0 {
		return errors.New("a failure is out of range")
	}
	return nil
}

// isFinal reports whether an operator must act. That holds until an exchange succeeds.
func (f Failure) isFinal() bool {
	return f.Count > 0 && (f.AfterFinal || f.Kind == provider.Rejected || f.Kind == provider.Expired)
}

// countAfter counts the failure after the last one, and sets the back-off.
func (f *Failure) countAfter(last Failure, e *provider.Error) {
	f.Count, f.AfterFinal = min(last.Count+1, maxCount-1), last.isFinal()
	f.NextAttempt = f.Time.Add(backOff(e, f.Count))
}

// asOf returns the failure as it is at a time. A failure dated in the future, or with a longer
// back-off than there is, was recorded before this server's clock was set back, and delays no
// attempt.
func (f Failure) asOf(now time.Time) Failure {
	if f.Time.After(now) || f.NextAttempt.Sub(now) > longestBackOff {
		f.NextAttempt = time.Time{}
	}
	return f
}

// isOutdated reports whether a refusal is of a narrower scope that was not tried again when it
// could have been: its role may have been corrected or deleted.
func (f Failure) isOutdated(scope string, now time.Time) bool {
	return scope != ownScope && now.After(f.asOf(now).NextAttempt.Add(failureRetention))
}
