package provider

import (
	"sync"
	"time"
)

const (
	// MaxSkew is how far a vendor's clock may be off ours: a Date that is further off is
	// not believed, as an untrusted header must not decide how long a token is served.
	MaxSkew = 10 * time.Minute

	// undated is how far the clock of a vendor is taken to be off that gives no Date, or
	// none that is believed.
	undated = 2 * time.Second

	// maxHosts bounds the memory that the clocks of hosts take.
	maxHosts = 10_000
)

// A Clock is what one answer shows of the vendor's clock: an HTTP Date header, in whole
// seconds, written between the sending of the request and the receipt of the answer. Of an
// answer out of a cache, both are as much earlier as its Age says: the vendor generated it
// that long ago, at least (RFC 9111 §4.2.3), and lifetimes count from then. Date is as old.
type Clock struct {
	Sent     time.Time
	Received time.Time
	Date     time.Time // zero if there was none

	// Age is the Age header of the answer; zero if it does not come out of a cache.
	Age time.Duration
}

// generated returns the clock of an answer whose Age has not been counted yet. It is in whole
// seconds, of which the last had begun.
func (c Clock) generated() Clock {
	if c.Age > 0 {
		c.Sent, c.Received = c.Sent.Add(-c.Age-time.Second), c.Received.Add(-c.Age)
	}
	return c
}

// Believed reports whether there is a Date, at most MaxSkew off our clock.
func (c Clock) Believed() bool { return !c.Date.IsZero() && c.Skew().Abs() <= MaxSkew }

// Bounds returns how far the vendor's clock is ahead of ours, at least and at most.
// Without a Date that is believed, the clocks agree within 2 s.
func (c Clock) Bounds() (least, most time.Duration) {
	if !c.Believed() {
		return -undated, undated
	}
	return c.measured()
}

// measured is what the Date shows: it has up to a second cut off, and may have been
// written the moment the request left us, or the moment the answer came.
func (c Clock) measured() (least, most time.Duration) {
	return c.Date.Sub(c.Received), c.Date.Add(time.Second).Sub(c.Sent)
}

// Skew returns how far the vendor's clock is ahead of ours, at least, believed or not.
// It is zero without a Date, and where the Date is consistent with equal clocks.
func (c Clock) Skew() time.Duration {
	if c.Date.IsZero() {
		return 0
	}
	switch least, most := c.measured(); {
	case least > 0:
		return least
	case most < 0:
		return most
	}
	return 0
}

// at returns when, by our clock, the vendor's shows t.
func (c Clock) at(t time.Time) span {
	least, most := c.Bounds()
	return span{t.Add(-most), t.Add(-least)}
}

// after returns when a lifetime is over that the answer states in whole seconds.
func (c Clock) after(lifetime time.Duration) span {
	return span{c.Sent.Add(lifetime), c.Received.Add(lifetime + time.Second)}
}

// issue returns the earliest time of the vendor's clock at which it can have made the
// token. An exchange that straddles a full hour may yield a token of the hour that has
// just ended. What the last exchange showed of the clock narrows it down, unless this
// one contradicts it.
func (c Clock) issue(last Token) time.Time {
	least, most := c.Bounds()
	if !last.IssueTime.IsZero() && last.ClockAhead < most {
		least = max(least, last.ClockAhead)
	}
	return c.Sent.Add(least)
}

// A span is the time, by our clock, in which something happens.
type span struct{ earliest, latest time.Time }

// Clocks are the clocks of vendors' hosts, as their last answers showed them. They
// belong to hosts, not to credentials, and outlive the writes of those. The zero value
// is ready for use, from several goroutines.
type Clocks struct {
	mu    sync.Mutex
	hosts map[string]Clock
}

func (c *Clocks) learn(host string, clock Clock) {
	if clock.Date.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hosts == nil || len(c.hosts) >= maxHosts {
		c.hosts = map[string]Clock{} // an answer away from being known again
	}
	c.hosts[host] = clock
}

// of returns the clock of a host; the zero Clock if no answer has shown it.
func (c *Clocks) of(host string) Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts[host]
}
