package pacing

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	// Before anything is known of a host, firstBurst requests are sent at once, and others at firstRate
	// a second. That doubles each doubleTime while requests wait: a vendor without a limit is asked
	// for thousands of tokens within a second, and one with a limit has turned only a few requests
	// away when its first answer says so.
	//
	// At most firstWindow requests are under way at first, and one more for each that was accepted, so that a
	// vendor that is slow to say that it has a limit has not received all of them by then.
	//
	// A host that has taken more within a second, and has not been overloaded since, gets more at first: as many in half
	// a second, half of them before it has answered. That is forgotten after forgetTime without traffic.
	firstRate   = 500
	firstBurst  = 20
	doubleTime  = 300 * time.Millisecond
	firstWindow = 70

	// A learned rate stays as it is for holdTime after an overload and in each period of traffic, which
	// doubles with each overload up to maxHoldTime. Then it grows while requests wait: slowly at first,
	// as the limit is near, by growth a second, which doubles each second up to maxGrowth.
	holdTime    = time.Second
	maxHoldTime = 10 * time.Second
	growth      = 0.1
	maxGrowth   = 1

	// idleTime is how long no request waits or is under way between two periods of traffic.
	idleTime = 5 * time.Second

	// forgetTime is how long after the last overload a learned rate is forgotten, and after the last traffic what a host
	// without overloads has taken.
	forgetTime = 24 * time.Hour

	// estimateTime is the longest time between two overloads for the vendor's rate to be estimated from
	// what it accepted between them.
	estimateTime = 10 * time.Second

	// burstTime is the time within which requests can follow each other at once, as timers are late on a
	// busy machine.
	burstTime = 50 * time.Millisecond

	// minRate is the least learned rate, in requests a second.
	minRate = 1
)

// A limit is the rate at which a host takes requests, as far as it is stated or learned from overloads.
type limit struct {
	bucket *rate.Limiter

	// stated is what the operator or the definition of the vendor states, in requests a second; zero for
	// nothing. The rate is never above it.
	stated float64

	isLearned bool          // whether the rate is what the host took at an overload
	hold      time.Duration // how long a learned rate stays as it is
	holdEnd   time.Time     // from which on the rate grows
	grown     time.Time     // when the rate was set, or last grew

	accepted      window
	proven        int       // the most requests accepted within a second, since the last overload
	resumed       time.Time // since when requests have been sent without a pause
	lastOverload  time.Time
	acceptedSince int // since lastOverload, or since the period of traffic began
}

func newLimit() limit { return limit{bucket: rate.NewLimiter(firstRate, firstBurst)} }

// rate returns the present rate in requests a second.
func (l *limit) rate() float64 { return float64(l.bucket.Limit()) }

// isKnown reports whether the rate is stated or learned.
func (l *limit) isKnown() bool { return l.isLearned || l.stated > 0 }

// expire forgets a learned rate after a time.
func (l *limit) expire(now time.Time) {
	if l.isLearned && now.Sub(l.lastOverload) > forgetTime {
		l.isLearned, l.hold = false, 0
		l.set(max(l.stated, firstRate), now)
	}
}

// begin begins a period of traffic.
func (l *limit) begin(now time.Time) {
	switch {
	case l.isLearned:
		l.holdEnd = now.Add(l.hold)
	case l.stated > 0:
		l.set(l.stated, now)
	default:
		if now.Sub(l.resumed) > forgetTime {
			l.proven = 0
		}
		l.bucket = rate.NewLimiter(firstRate, firstBurst)
		if perSecond := 2 * float64(l.proven); perSecond > firstRate {
			l.bucket = rate.NewLimiter(rate.Limit(perSecond), int(perSecond*burstTime.Seconds()))
		}
	}
	l.resumed, l.grown = now, now
	l.acceptedSince = 0
}

// state sets what is stated, in requests a second; zero for nothing.
func (l *limit) state(stated float64, now time.Time) {
	if stated == l.stated {
		return
	}
	l.stated = stated
	switch {
	case stated > 0 && (!l.isLearned || l.rate() > stated):
		l.set(stated, now)
	case stated == 0 && !l.isLearned:
		l.set(firstRate, now)
	}
}

func (l *limit) set(perSecond float64, now time.Time) {
	perSecond = max(perSecond, minRate)
	if l.stated > 0 {
		perSecond = min(perSecond, l.stated)
	}
	l.bucket.SetLimitAt(now, rate.Limit(perSecond))
	l.bucket.SetBurstAt(now, int(max(1, math.Ceil(perSecond*burstTime.Seconds()))))
	l.grown = now
}

// noteAccepted records an answer. canGrow is whether requests wait, and the vendor is not slower than
// before.
func (l *limit) noteAccepted(now time.Time, canGrow bool) {
	l.accepted.add(now)
	l.acceptedSince++
	if !l.isKnown() {
		l.proven = max(l.proven, l.accepted.count(now))
	}
	passed := now.Sub(l.grown)
	switch {
	case l.isKnown() && !l.isLearned: // stated
	case !canGrow || l.isLearned && now.Before(l.holdEnd):
		l.grown = now
	case l.isLearned:
		perSecond := min(growth*math.Exp2(now.Sub(l.holdEnd).Seconds()), maxGrowth)
		l.set(l.rate()*(1+perSecond*min(passed, windowTime).Seconds()), now)
	case passed >= doubleTime:
		l.set(2*l.rate(), now)
	}
}

// noteOverload sets the rate to what the host took, as far as that is known.
func (l *limit) noteOverload(now time.Time) {
	since, sending := now.Sub(l.lastOverload), now.Sub(l.resumed)
	taken := l.rate() / 4
	isRecent := !l.lastOverload.IsZero() && since < estimateTime
	switch lastSecond := float64(l.accepted.count(now)); {
	case sending >= windowTime:
		taken = lastSecond
	case isRecent:
		taken = max(float64(l.acceptedSince)/since.Seconds(), l.rate()/4)
		if since >= windowTime { // a vendor that counts by windows takes little in a pause
			taken = max(taken, lastSecond)
		}
	case l.isLearned:
		taken = 0.9 * l.rate()
	case sending >= doubleTime:
		taken = min(taken, float64(l.acceptedSince)/sending.Seconds())
	}
	l.hold = min(max(2*l.hold, holdTime), maxHoldTime)
	l.isLearned, l.lastOverload, l.acceptedSince, l.proven = true, now, 0, 0
	l.set(min(taken, l.rate()), now)
}

// resume records that requests are sent again after a pause.
func (l *limit) resume(now time.Time) {
	l.resumed, l.grown, l.holdEnd = now, now, now.Add(l.hold)
	l.bucket.ReserveN(now, max(0, min(int(l.bucket.TokensAt(now)), l.bucket.Burst()))) // what was saved up in the pause
}

// wait returns how long the next request must wait; zero if it can be sent.
func (l *limit) wait(now time.Time) time.Duration {
	missing := 1 - l.bucket.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Duration(missing/l.rate()*float64(time.Second)), time.Microsecond)
}

// count counts a request that is sent, also before its turn.
func (l *limit) count(now time.Time) { l.bucket.ReserveN(now, 1) }

// mayBeUnderWay returns how many requests may be under way at a time.
func (l *limit) mayBeUnderWay() int {
	if l.isKnown() {
		return math.MaxInt
	}
	return max(firstWindow, l.proven/2) + l.acceptedSince
}

// delay returns how long a number of requests take at the present rate.
func (l *limit) delay(requests int) time.Duration {
	return time.Duration(float64(requests) / l.rate() * float64(time.Second))
}
