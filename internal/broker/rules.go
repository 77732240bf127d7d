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
	// maxMargin and marginPart make the margin that a lease keeps before its
	// token's death: the smaller of 30 s and 5 % of the life that is left.
	maxMargin  = 30 * time.Second
	marginPart = 20

	// minLease is the shortest lease: Vault takes one of zero seconds for the
	// mount's default, and Vault Agent for none.
	minLease = time.Second

	// boundaryWait is how long before a boundary a reader waits for it, to get a
	// token of the next hour and not one that dies in its hands.
	boundaryWait = 10 * time.Second

	// refreshPart is the part of a token's lifetime that is left when it is due for
	// a fresher one. Vault Agent reads again after 85 to 95 % of a lease, so that a
	// quarter gives it a fresh token each time.
	refreshPart = 4

	// earlyExchanges is how many exchanges readers may cause by their min_ttl within the
	// lifetime of a token, though it is not due for a fresher one; earlyAtOnce of them may
	// come one after the other. A min_ttl of less than 5/6 of the lifetime is always met.
	earlyExchanges = 6
	earlyAtOnce    = 3

	// maxRefreshes is how many refreshes of a name operators may ask for within refreshPeriod.
	maxRefreshes  = 10
	refreshPeriod = time.Minute

	// agentCushion is what Vault Agent adds to the ttl of a secret without a lease.
	agentCushion = time.Second

	// refusalMemory is how long what a vendor said of a scope is kept after it may be
	// asked again.
	refusalMemory = 15 * time.Minute

	// Attempts at a vendor who is unavailable are 1 s apart, then twice as long each
	// time up to 5 min, give or take a fifth; the vendor's own request is obeyed up to
	// an hour. A rejected credential is tried every 5 min.
	minPause      = time.Second
	maxPause      = 5 * time.Minute
	pauseJitter   = 0.2
	maxRetryAfter = time.Hour
	rejectedPause = 5 * time.Minute

	// longestPause is more than any of them: a narrower scope that is rejected waits for the
	// others first.
	longestPause = maxRetryAfter + rejectedPause

	// stepWorthLogging is how far this server's clock has to be stepped to be logged.
	stepWorthLogging = 5 * time.Second

	// keepaliveSpread is the part of a keepalive's interval that it may come early.
	keepaliveSpread = 20
)

// Guarantee 1 is provider.Answer.Token, which reads when a token expires, and leaseTTL and
// dying, which keep the margin and wait for a boundary. TestGuarantee1IsThisTable goes over
// all four: source, vendor's clock, boundary, margin.

// leaseTTL is the longest lease of a token at a time, zero if there is none.
func leaseTTL(t provider.Token, now time.Time) time.Duration {
	left := t.ExpireTime.Sub(t.Now(now))
	ttl := (left - margin(left)).Truncate(time.Second)
	if ttl < minLease {
		return 0
	}
	return ttl
}

func margin(left time.Duration) time.Duration { return min(maxMargin, left/marginPart) }

// dying is whether a token is so near its boundary that a later one is worth
// waiting for, or dead before it.
func dying(t provider.Token, now time.Time) bool {
	return !t.RenewableFrom.IsZero() && (t.RenewableFrom.Sub(t.Now(now)) <= boundaryWait || leaseTTL(t, now) == 0)
}

// refreshTime is when a token is due for a fresher one: before its boundary there
// is none to be had.
func refreshTime(t provider.Token) time.Time {
	switch {
	case t.NotRenewable:
		return t.ExpireTime
	case !t.RenewableFrom.IsZero():
		return t.RenewableFrom
	}
	return t.ExpireTime.Add(-t.ExpireTime.Sub(t.IssueTime) / refreshPart)
}

// overdue is whether a token is due for a fresher one.
func overdue(t provider.Token, now time.Time) bool { return !t.Now(now).Before(refreshTime(t)) }

// renewable is whether a fresher token could be leased for minTTL. A token's youth
// spares the vendor readers who want all of its life.
func renewable(t provider.Token, now time.Time, minTTL time.Duration) bool {
	return !t.NotRenewable && t.RenewableFrom.IsZero() && minTTL <= leaseTTL(t, t.IssueTime) &&
		t.Now(now).Sub(t.IssueTime) >= youth(t)
}

// earlySpacing is how far apart exchanges are, in the long run, that readers cause by their
// min_ttl.
func earlySpacing(t provider.Token) time.Duration {
	return t.ExpireTime.Sub(t.IssueTime) / earlyExchanges
}

// youth is how long a token is as fresh as can be.
func youth(t provider.Token) time.Duration { return margin(t.ExpireTime.Sub(t.IssueTime)) }

// rereadTTL is the ttl to give out with a token so that Vault Agent, which adds its
// cushion, reads again when there is a fresher one, or within a second after that, but
// before the token dies: a read in its last second waits for the boundary, if that is
// where it dies.
func rereadTTL(t provider.Token, fresher, now time.Time) time.Duration {
	now = t.Now(now)
	wait := (fresher.Sub(now) + time.Second - 1).Truncate(time.Second)
	left := t.ExpireTime.Sub(now).Truncate(time.Second)
	return max(min(wait, left)-agentCushion, time.Second)
}

// pause is how long to leave a vendor alone after so many failures in a row.
func pause(e *provider.Error, failures int) time.Duration {
	p := maxPause
	if shift := failures - 1; shift < 20 {
		p = min(minPause<<shift, maxPause)
	}
	p += time.Duration((2*rand.Float64() - 1) * pauseJitter * float64(p))
	if e.Kind == provider.Rejected || e.Kind == provider.Expired {
		p = rejectedPause
	}
	return max(p, min(e.RetryAfter, maxRetryAfter))
}

// inUse is whether a token was alive less than its lifetime ago.
func inUse(t provider.Token, now time.Time) bool {
	return t.Now(now).Before(t.ExpireTime.Add(t.ExpireTime.Sub(t.IssueTime)))
}

// keepaliveTime is when a credential that dies of disuse is to be exchanged if
// nobody reads it; zero if it need not be. That is an interval after the last
// exchange at the latest. The first keepalive comes at any time of the interval, and
// later ones a little before its end, each credential by its own rng, so that many
// that were stored together, or found the vendor down together, are spread over it. An
// exchange in the future was dated by a clock that has been stepped back since: nothing
// tells when it was, and the next is due now.
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
	rng := fnv.New64a()
	_, _ = io.WriteString(rng, c.Generation)
	_, _ = rng.Write(binary.BigEndian.AppendUint64(nil, uint64(last.UnixNano())))
	return last.Add(c.Keepalive - time.Duration(rng.Sum64()%uint64(spread)))
}

// stepped is how far the wall clock has been stepped since an earlier time: how much more
// has passed by it than by the monotonic clock, which stops while a machine is suspended.
func stepped(since, now time.Time) time.Duration {
	return now.Round(0).Sub(since.Round(0)) - now.Sub(since)
}
