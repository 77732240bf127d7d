package broker

import (
	"time"
)

// A demand is why a token may have to be renewed.
type demand struct {
	// isBackground is whether no reader waits for the renewal.
	isBackground bool

	// inUse is, in the background, whether the token has been read since it was issued. A token
	// that has not is left to expire.
	inUse bool

	// minTTL is how long the reader wants the token to be valid for at least. shortIssueTime is
	// the IssueTime of the token that the reader found too short: any other token meets the
	// demand, as it was issued since.
	minTTL         time.Duration
	shortIssueTime time.Time
}

// An action is what is done about a token.
type action int

const (
	// serve serves the cached token; in the background, there is nothing to do.
	serve action = iota

	// renewAhead renews a token that is still valid. A reader gets the valid one if the renewal
	// takes long or fails.
	renewAhead

	// renewEarly renews a token that is not due, as it is too short for a reader's min_ttl. The
	// reader waits for it. Such renewals are limited.
	renewEarly

	// renewNow renews before anything is served: there is no valid token, or it is too short for
	// the reader and due, or about to expire at a time before which there is no other. A reader
	// waits for it. In the background, it is what is due.
	renewNow

	// fail fails the read: there is no valid token, and the engine is backing off.
	fail
)

// decide decides what to do about the token of a scope. It is the only place that does: reads
// call it before they wait for the lock of the name and once they have it, and the background
// calls it for every scope that may be due.
//
// The time is when the decision can change: of serve, when a renewal is due, or the back-off
// ends (zero is never); of fail, when the back-off ends; of the others, since when it is due.
func (v scopeSnapshot) decide(d demand, now time.Time) (action, time.Time) {
	token := v.token()
	isValid := leaseTTL(token, now) > 0
	if next := v.nextAttempt(now); now.Before(next) {
		if isValid || d.isBackground {
			return serve, next
		}
		return fail, next
	}
	if d.isBackground {
		due := v.backgroundTime(d.inUse, now)
		if due.IsZero() || now.Before(due) {
			return serve, due
		}
		return renewNow, due
	}
	due := renewTime(token)
	isDue := v.pendingWrite() != nil || isRenewalDue(token, now)
	switch isTooShort := v.isTooShort(d, now); {
	case !isValid || isExpiring(token, now) || isTooShort && isDue:
		return renewNow, due
	case isTooShort:
		return renewEarly, now
	case isDue:
		return renewAhead, due
	}
	return serve, due
}

// backgroundTime returns when the token of a scope is renewed without a reader; zero is never.
func (v scopeSnapshot) backgroundTime(inUse bool, now time.Time) time.Time {
	if w := v.pendingWrite(); w != nil {
		return w.retryTime
	}
	due := keepaliveTime(v.credential, v.state, now)
	token := v.token()
	if !inUse || token.NotRenewable {
		return due
	}
	renewal := renewTime(token.At(now))
	if token.IssueTime.IsZero() { // a reader asked, and got none
		renewal = minTime(v.lastFailure(now).Time, now)
	}
	if due.IsZero() || renewal.Before(due) {
		due = renewal
	}
	return due
}

// isTooShort reports whether the token is not valid for as long as a reader wants, although a
// new one would be.
func (v scopeSnapshot) isTooShort(d demand, now time.Time) bool {
	token := v.token()
	return token.IssueTime.Equal(d.shortIssueTime) && leaseTTL(token, now) < d.minTTL &&
		canMeet(token, now, d.minTTL) && !now.Before(v.earlyTime())
}

// earlyTime returns when readers may cause another exchange by their min_ttl.
func (v scopeSnapshot) earlyTime() time.Time {
	return v.early[v.scope].Add(-(earlyAtOnce - 1) * earlySpacing(v.token()))
}

// noteEarly notes in a snapshot that a reader causes an exchange by its min_ttl.
func (v scopeSnapshot) noteEarly(snap *snapshot, now time.Time) {
	snap.early = withKey(snap.early, v.scope, maxTime(snap.early[v.scope], now).Add(earlySpacing(v.token())))
}
