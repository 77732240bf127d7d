package provider

import (
	"sync"
	"time"
)

const (
	// MaxSkew is the largest believed difference between a vendor's clock and ours. The
	// Date header is not authenticated, so that it must not decide how long a token is
	// served.
	MaxSkew = 10 * time.Minute

	// undated is the assumed difference if there is no Date, or none that is believed.
	undated = 2 * time.Second

	// maxHosts bounds the memory of Clocks.
	maxHosts = 10_000
)

// A Clock is the vendor's clock as one response shows it. The vendor wrote the Date header,
// in whole seconds, between Sent and Received. If the response came from a cache, Sent and
// Received are earlier by its Age: the vendor generated the response at least that long ago
// (RFC 9111 §4.2.3), and lifetimes count from then.
type Clock struct {
	Sent     time.Time
	Received time.Time
	Date     time.Time // zero if there was none

	// Age is the Age header of the response; zero if it did not come from a cache.
	Age time.Duration
}

// generated subtracts Age from Sent and Received. Age is in whole seconds, rounded down, so
// Sent is a second earlier still.
func (c Clock) generated() Clock {
	if c.Age > 0 {
		c.Sent, c.Received = c.Sent.Add(-c.Age-time.Second), c.Received.Add(-c.Age)
	}
	return c
}

// Believed reports whether there is a Date that differs from our clock by at most MaxSkew.
func (c Clock) Believed() bool { return !c.Date.IsZero() && c.Skew().Abs() <= MaxSkew }

// Bounds returns the bounds of how far the vendor's clock is ahead of ours. Without a
// believed Date, the clocks are assumed to agree within 2 s.
func (c Clock) Bounds() (least, most time.Duration) {
	if !c.Believed() {
		return -undated, undated
	}
	return c.measured()
}

// measured returns the bounds that follow from the Date. It is rounded down to the second,
// and was written at any time between Sent and Received.
func (c Clock) measured() (least, most time.Duration) {
	return c.Date.Sub(c.Received), c.Date.Add(time.Second).Sub(c.Sent)
}

// Skew returns the smallest difference that explains the Date, believed or not; positive if
// the vendor's clock is ahead of ours. It is zero without a Date, or if equal clocks explain
// it.
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

// at returns when, by our clock, the vendor's clock shows t.
func (c Clock) at(t time.Time) span {
	least, most := c.Bounds()
	return span{t.Add(-most), t.Add(-least)}
}

// after returns when a lifetime ends that the response states in whole seconds.
func (c Clock) after(lifetime time.Duration) span {
	return span{c.Sent.Add(lifetime), c.Received.Add(lifetime + time.Second)}
}

// issue returns the earliest time, by the vendor's clock, at which the vendor can have
// issued the token. An exchange that straddles a full hour may yield a token of the hour
// that has just ended. The lower bound from the previous exchange narrows this down, unless
// this response contradicts it.
func (c Clock) issue(last Token) time.Time {
	least, most := c.Bounds()
	if !last.IssueTime.IsZero() && last.ClockAhead < most {
		least = max(least, last.ClockAhead)
	}
	return c.Sent.Add(least)
}

// A span is the range of times, by our clock, in which something happens.
type span struct{ earliest, latest time.Time }

// Clocks has the last known clock of each vendor's host. It is shared by all credentials,
// and a write to a credential does not reset it. The zero value is ready for use, and safe
// for concurrent use.
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
		c.hosts = map[string]Clock{} // the next response of each host restores it
	}
	c.hosts[host] = clock
}

// of returns the clock of a host; the zero Clock if it is not known.
func (c *Clocks) of(host string) Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts[host]
}
