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
	// maxMargin and marginPart are the margin between the end of a lease and the expiry of its
	// token: 30 s or 5 % of the remaining lifetime, whichever is less.
	maxMargin  = 30 * time.Second
	marginPart = 20

	// minLease is the shortest lease. Vault takes zero seconds for the mount's default, and Vault
	// Agent for no lease.
	minLease = time.Second

	// expiringTime is how long before a token's RenewableFrom a reader waits for the next token,
	// rather than get one that expires in its hands.
	expiringTime = 10 * time.Second

	// renewalPart is the part of a token's lifetime that is left when its renewal is due. Vault
	// Agent reads again after 85 to 95 % of a lease, so it gets a new token each time.
	renewalPart = 4

	// earlyExchanges is how many exchanges readers may cause by their min_ttl within the lifetime
	// of a token that is not due; earlyAtOnce of them may follow each other at once. A min_ttl of
	// less than 5/6 of the lifetime is always met.
	earlyExchanges = 6
	earlyAtOnce    = 3

	// maxRefreshes is how many refreshes of a name operators may ask for within refreshPeriod.
	maxRefreshes  = 10
	refreshPeriod = time.Minute

	// agentCushion is what Vault Agent adds to the ttl of a secret without a lease.
	agentCushion = time.Second

	// failureRetention is how long a refusal of a scope is kept after the scope may be tried again.
	failureRetention = 15 * time.Minute

	// The back-off from a vendor that is unavailable is 1 s, and then twice as long each time up
	// to 5 min, plus or minus a fifth. The vendor's Retry-After is obeyed up to an hour. A
	// rejected credential is tried every 5 min.
	minBackOff      = time.Second
	maxBackOff      = 5 * time.Minute
	backOffJitter   = 0.2
	maxRetryAfter   = time.Hour
	rejectedBackOff = 5 * time.Minute

	// longestBackOff is more than any of them: a narrower scope that is rejected waits for the
	// other scopes first.
	longestBackOff = maxRetryAfter + rejectedBackOff

	// keepaliveSpread is the part of its interval by which a keepalive may come early.
	keepaliveSpread = 20
)

// Guarantee 1 is kept by provider.Answer.Token, which reads when a token expires, by leaseTTL,
// which keeps the margin, and by isExpiring, which waits for the next token.
// TestGuarantee1IsThisTable goes over all four: source, vendor's clock, RenewableFrom, margin.

// leaseTTL returns the longest lease of a token at a time, in whole seconds; zero if there is
// none.
func leaseTTL(t provider.Token, now time.Time) time.Duration {
	left := t.ExpireTime.Sub(t.Now(now))
	ttl := (left - margin(left)).Truncate(time.Second)
	if ttl < minLease {
		return 0
	}
	return ttl
}

func margin(left time.Duration) time.Duration { return min(maxMargin, left/marginPart) }

// isExpiring reports whether a token is so near its RenewableFrom that the next one is worth
// waiting for, or can no longer be leased.
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

// canMeet reports whether a new token could be leased for minTTL. A token that was just issued
// cannot be improved on: readers that want its whole lifetime must not cause an exchange each.
func canMeet(t provider.Token, now time.Time, minTTL time.Duration) bool {
	return !t.NotRenewable && t.RenewableFrom.IsZero() && minTTL <= leaseTTL(t, t.IssueTime) &&
		t.Now(now).Sub(t.IssueTime) >= margin(t.ExpireTime.Sub(t.IssueTime))
}

// earlySpacing returns how far apart, in the long run, the exchanges are that readers cause by
// their min_ttl.
func earlySpacing(t provider.Token) time.Duration {
	return t.ExpireTime.Sub(t.IssueTime) / earlyExchanges
}

// rereadTTL returns the ttl to give out with a token that has no lease. Vault Agent adds its
// cushion and then reads again: when there is a newer token or within a second after that, and
// before this one expires. A read in the last second waits for RenewableFrom, if the token
// expires there.
func rereadTTL(t provider.Token, newer, now time.Time) time.Duration {
	now = t.Now(now)
	wait := (newer.Sub(now) + time.Second - 1).Truncate(time.Second)
	left := t.ExpireTime.Sub(now).Truncate(time.Second)
	return max(min(wait, left)-agentCushion, time.Second)
}

// backOff returns how long no exchange is tried after so many failures in a row.
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

// keepaliveTime returns when a credential that expires of disuse is exchanged without a reader;
// zero is never. That is at most an interval after the last exchange. The first keepalive comes
// at any time of the interval and later ones a little before its end, each seeded by its
// credential, so that many that were stored together, or that found the vendor down together,
// are spread over it. After an exchange in the future, whose clock has been stepped back since,
// the keepalive is due now: when the exchange really was is unknown.
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

// clockStep returns how far the wall clock has been stepped since an earlier time: how much more
// time has passed by it than by the monotonic clock, which stops while a machine is suspended.
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
