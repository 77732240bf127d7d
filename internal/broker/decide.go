package broker

import (
	"time"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A demand is a reason to renew a token.
type demand struct {
	// isBackground is whether no reader waits for the renewal.
	isBackground bool

	// inUse is, in the background, whether the token has been read since its issue. Tokens that are
	// not in use are left to expire.
	inUse bool

	// minTTL is the remaining lifetime that the reader requires. shortIssueTime is the IssueTime of
	// the token that the reader found too short. Any other token meets the demand, since it is
	// newer.
	minTTL         time.Duration
	shortIssueTime time.Time
}

// An action is the result of decide.
type action int

const (
	// serve serves the cached token. In the background, nothing happens.
	serve action = iota

	// renewAhead renews a token that is still valid. The reader gets the valid token if the renewal
	// is slow or fails.
	renewAhead

	// renewEarly renews a token whose renewal is not due, but which is too short for a reader's
	// min_ttl. The reader waits. Such renewals are limited.
	renewEarly

	// renewNow renews the token before anything is served: there is no valid token, or the token is
	// too short for the reader and its renewal is due, or it reaches its RenewableFrom within
	// seconds. The reader waits. In the background, every renewal.
	renewNow

	// fail fails the read: there is no valid token, and the engine is backing off.
	fail
)

// urgency returns how urgent the exchange of a reader is.
func (a action) urgency() pacing.Priority {
	if a == renewAhead {
		return pacing.Ahead
	}
	return pacing.Awaited
}

// decide decides whether to serve the cached token of a scope or to renew it. Reads call it before
// they wait for the lock of the name and again under the lock. The background calls it for every
// scope that may be due. Other exchanges do not depend on the cached token: a refresh by an
// operator (forced_refresh.go), the read of a dedicated role (dedicate.go) and a verification
// (change.go).
//
// The returned time is when the decision can change. For serve, that is when a renewal is due or
// the back-off ends, or zero for never; for fail, when the back-off ends. For the other actions, it
// is since when the renewal is due.
func (v scopeSnapshot) decide(d demand, now time.Time) (action, time.Time) {
	token := v.token().At(now)
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
	isDue := v.unsaved.writeFor(v.scope) != nil || isRenewalDue(token, now)
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

// backgroundTime returns when to renew the token of a scope without a reader; zero for never.
func (v scopeSnapshot) backgroundTime(inUse bool, now time.Time) time.Time {
	if w := v.unsaved.writeFor(v.scope); w != nil {
		return w.retryTime
	}
	if provider.OnlyDelegates(v.credential.Vendor) {
		return time.Time{}
	}
	due := keepaliveTime(v.credential, v.state, now)
	token := v.token()
	if !inUse || token.NotRenewable {
		return due
	}
	renewal := renewTime(token.At(now))
	if token.IssueTime.IsZero() { // a reader requested a token without success
		renewal = minTime(v.lastFailure(now).Time, now)
	}
	if due.IsZero() || renewal.Before(due) {
		due = renewal
	}
	return due
}

// isTooShort reports whether the token is too short for the reader and a new one would not be.
func (v scopeSnapshot) isTooShort(d demand, now time.Time) bool {
	token := v.token()
	return token.IssueTime.Equal(d.shortIssueTime) && leaseTTL(token, now) < d.minTTL &&
		canMeet(token, now, d.minTTL) && !now.Before(v.earlyTime())
}

// earlyTime returns when the next exchange for a min_ttl is possible.
func (v scopeSnapshot) earlyTime() time.Time {
	return v.early[v.scope].Add(-(earlyAtOnce - 1) * earlySpacing(v.token()))
}

// noteEarly records in a snapshot that a reader's min_ttl causes an exchange.
func (v scopeSnapshot) noteEarly(snap *snapshot, now time.Time) {
	snap.early = withKey(snap.early, v.scope, maxTime(snap.early[v.scope], now).Add(earlySpacing(v.token())))
}
