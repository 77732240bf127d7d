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

	// Count is the number of failures in a row; zero after an exchange has succeeded.
	Count int `json:"count,omitempty"`

	// NextAttempt is when the vendor may be called again.
	NextAttempt time.Time `json:"next_attempt,omitzero"`

	// MayBeScope is whether the vendor may have rejected only the scope.
	MayBeScope bool `json:"may_be_scope,omitempty"`

	// Widened is whether the vendor granted more than was requested.
	Widened bool `json:"widened,omitempty"`

	// AfterFinal is whether an earlier failure in the row was final. An outage after a rejection
	// does not end the rejection.
	AfterFinal bool `json:"after_final,omitempty"`

	// AboutClient is whether the vendor rejects the client, and not the grant of a person.
	AboutClient bool `json:"about_client,omitempty"`

	// RejectedSince is when, in the row of failures, the vendor first rejected the grant (invalid_grant);
	// the zero time if it has not.
	RejectedSince time.Time `json:"rejected_since,omitzero"`
}

// check returns an error for a Failure that the engine never writes.
func (f Failure) check() error {
	if f.Count < 0 || f.Count >= maxCount || f.Kind < 0 {
		return errors.New("a failure is out of range")
	}
	return nil
}

// isFinal reports whether an operator must act. Only a successful exchange changes that.
func (f Failure) isFinal() bool {
	return f.Count > 0 && (f.AfterFinal || f.Kind == provider.Rejected || f.Kind == provider.Expired)
}

// countAfter sets the count and the back-off of a failure that follows another.
func (f *Failure) countAfter(last Failure, e *provider.Error) {
	f.Count, f.AfterFinal = min(last.Count+1, maxCount-1), last.isFinal()
	f.AboutClient = e.AboutClient()
	isGrant := e.Code == "invalid_grant"
	if last.Count > 0 && (isGrant || e.Kind != provider.Rejected) { // an outage does not end a rejection
		f.RejectedSince = last.RejectedSince
	}
	if isGrant && f.RejectedSince.IsZero() {
		f.RejectedSince = f.Time
	}
	f.NextAttempt = f.Time.Add(backOff(e, f.Count))
}

// asOf returns the failure as of now. It has no back-off if it is dated in the future or its
// back-off is too long, since this server's clock was then set back after the failure.
func (f Failure) asOf(now time.Time) Failure {
	if f.Time.After(now) || f.NextAttempt.Sub(now) > longestBackOff {
		f.NextAttempt = time.Time{}
	}
	return f
}

// isOutdated reports whether a narrower scope was not tried for failureRetention after the
// back-off. Its role may have been corrected or deleted.
func (f Failure) isOutdated(scope string, now time.Time) bool {
	return scope != ownScope && now.After(f.asOf(now).NextAttempt.Add(failureRetention))
}
