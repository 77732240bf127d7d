package broker

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// maxMargin and marginPart define the margin between the end of a lease and the expiry of its
	// token: 30 s or 5 % of the remaining lifetime, whichever is less.
	maxMargin  = 30 * time.Second
	marginPart = 20

	// minLease is the shortest lease. Vault reads zero seconds as the mount's default, and Vault
	// Agent reads them as no lease.
	minLease = time.Second

	// expiringTime is how long before a token's RenewableFrom a reader waits for the next token
	// instead of a token about to expire.
	expiringTime = 10 * time.Second

	// A renewal is due when 1/renewalPart of a token's lifetime remains. Vault Agent reads again
	// after 85 to 95 % of a lease, so it gets a new token each time.
	renewalPart = 4

	// earlyExchanges is the maximum number of exchanges that readers cause with min_ttl within the
	// lifetime of a token whose renewal is not due; earlyAtOnce is how many of them may follow each
	// other directly. A min_ttl of less than 5/6 of the lifetime is always met.
	earlyExchanges = 6
	earlyAtOnce    = 3

	// maxRefreshes is the maximum number of refreshes of a name within refreshPeriod.
	maxRefreshes  = 10
	refreshPeriod = time.Minute

	// agentCushion is the time that Vault Agent adds to the ttl of a secret without a lease.
	agentCushion = time.Second

	// failureRetention is how long a failure of a scope or role is kept after its back-off, if
	// nothing tries again.
	failureRetention = 15 * time.Minute

	// If a vendor is unavailable, the back-off is 1 s and doubles up to 5 min, plus or minus 20 %.
	// The vendor's Retry-After applies up to an hour. If the credential is rejected, the back-off
	// is 5 min.
	minBackOff      = time.Second
	maxBackOff      = 5 * time.Minute
	backOffJitter   = 0.2
	maxRetryAfter   = time.Hour
	rejectedBackOff = 5 * time.Minute

	// longestBackOff is the limit of all back-offs. It includes the longer one of a rejected
	// narrower scope, which lets other scopes be tried first.
	longestBackOff = maxRetryAfter + rejectedBackOff

	// A keepalive comes early by at most 1/keepaliveSpread of its interval.
	keepaliveSpread = 20
)

// Guarantee 1 depends on provider.Answer.Token, which determines the expiry of a token, on
// leaseTTL, which applies the margin, and on isExpiring, by which readers wait for the next token.
// TestGuarantee1ForEachExpirySource combines sources, vendor clocks, boundaries and margins.

// leaseTTL returns the longest possible lease of a token, in whole seconds; zero if there is none.
func leaseTTL(t provider.Token, now time.Time) time.Duration {
	left := t.ExpireTime.Sub(t.Now(now))
	ttl := (left - margin(left)).Truncate(time.Second)
	if ttl < minLease {
		return 0
	}
	return ttl
}

func margin(left time.Duration) time.Duration { return min(maxMargin, left/marginPart) }

// isExpiring reports whether a reader should wait for the next token, because RenewableFrom is at
// most expiringTime away or the token can no longer be leased.
func isExpiring(t provider.Token, now time.Time) bool {
	return !t.RenewableFrom.IsZero() && (t.RenewableFrom.Sub(t.Now(now)) <= expiringTime || leaseTTL(t, now) == 0)
}

// renewTime returns when the renewal of a token is due.
func renewTime(t provider.Token) time.Time {
	switch {
	case t.NotRenewable:
		return t.ExpireTime
	case !t.RenewableFrom.IsZero():
		return t.RenewableFrom
	}
	return t.ExpireTime.Add(-t.ExpireTime.Sub(t.IssueTime) / renewalPart)
}

// isRenewalDue reports whether the renewal of a token is due.
func isRenewalDue(t provider.Token, now time.Time) bool { return !t.Now(now).Before(renewTime(t)) }

// canMeet reports whether a new token could be leased for minTTL. It is false for a token that was
// just issued, so that readers that require its whole lifetime do not cause an exchange each.
func canMeet(t provider.Token, now time.Time, minTTL time.Duration) bool {
	return !t.NotRenewable && t.RenewableFrom.IsZero() && minTTL <= leaseTTL(t, t.IssueTime) &&
		t.Now(now).Sub(t.IssueTime) >= margin(t.ExpireTime.Sub(t.IssueTime))
}

// earlySpacing returns the average time between exchanges that readers cause with min_ttl.
func earlySpacing(t provider.Token) time.Duration {
	return t.ExpireTime.Sub(t.IssueTime) / earlyExchanges
}

// rereadTTL returns the ttl for a reader without a lease. Vault Agent adds agentCushion to it and
// then reads again: within a second after there is a newer token, and before this one expires. If
// the token expires at RenewableFrom, a read in the last second waits for the next token.
func rereadTTL(t provider.Token, newer, now time.Time) time.Duration {
	now = t.Now(now)
	wait := (newer.Sub(now) + time.Second - 1).Truncate(time.Second)
	left := t.ExpireTime.Sub(now).Truncate(time.Second)
	return max(min(wait, left)-agentCushion, time.Second)
}

// backOff returns the pause after this many failures in a row.
func backOff(e *provider.Error, failures int) time.Duration {
	d := maxBackOff
	if shift := failures - 1; shift < 20 {
		d = min(minBackOff<<shift, maxBackOff)
	}
	d += time.Duration((2*rand.Float64() - 1) * backOffJitter * float64(d))
	if e.Kind == provider.Rejected || e.Kind == provider.Expired {
		d = rejectedBackOff
	}
	return max(d, min(e.RetryAfter, maxRetryAfter))
}

// wasRecentlyValid reports whether a token was valid less than its lifetime ago.
func wasRecentlyValid(t provider.Token, now time.Time) bool {
	return t.Now(now).Before(t.ExpireTime.Add(t.ExpireTime.Sub(t.IssueTime)))
}

// keepaliveTime returns when to exchange a credential that expires from disuse without a reader;
// zero for never. That is at most an interval after the last exchange. The first keepalive comes at
// a random time within the interval, and later ones shortly before its end. The credential seeds
// the random numbers, so that credentials that were stored together, or that found the vendor down
// together, do not stay together. If the last exchange is in the future, the clock has been stepped
// back since, so its real time is unknown and the keepalive is due now.
func keepaliveTime(c *Credential, s *State, now time.Time) time.Time {
	if c.Keepalive == 0 || c.Vendor.MaxIdle() == 0 {
		return time.Time{}
	}
	last, spread := s.ExchangeTime, c.Keepalive/keepaliveSpread
	if s.Exchanges <= 1 {
		spread = c.Keepalive
	}
	if last.IsZero() {
		last = c.WriteTime
	}
	if last.After(now) {
		return now
	}
	seed := fnv.New64a()
	_, _ = io.WriteString(seed, c.Generation)
	_, _ = seed.Write(binary.BigEndian.AppendUint64(nil, uint64(last.UnixNano())))
	return last.Add(c.Keepalive - time.Duration(seed.Sum64()%uint64(spread)))
}

// clockStep returns by how much the wall clock has been stepped since a time: the difference
// between the times that have passed on the wall clock and on the monotonic clock. The monotonic
// clock stops while a machine is suspended.
func clockStep(since, now time.Time) time.Duration {
	return now.Round(0).Sub(since.Round(0)) - now.Sub(since)
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
