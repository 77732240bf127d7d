package pacing

import "time"

const (
	// A host is down after outageFailures requests in a row of outageNames names that it did not answer, or
	// answered with a server error, each within outageTime of the one before. The requests of fewer
	// names say little about the host.
	outageFailures = 5
	outageNames    = 3
	outageTime     = time.Minute

	// While a host is down, one request is sent after minProbe at first. The time doubles up to maxProbe.
	minProbe = 500 * time.Millisecond
	maxProbe = 10 * time.Second

	// An outage is forgotten if nobody has asked for so long, longer than any back-off.
	outageMemory = 10 * time.Minute
)

// An outage counts the requests in a row that a host did not answer.
type outage struct {
	failures int
	names    map[string]bool
	last     time.Time
	cause    string // of the last one

	since    time.Time // when the host was found to be down; zero if it is not
	interval time.Duration
	next     time.Time // when the next request is sent
	only     *Turn     // that request, if it waits or is under way; else nil
}

func (o *outage) isDown() bool { return !o.since.IsZero() }

// fail counts a failure. isOnly is whether the request was the only one to a host that is down. isNew is
// whether the host is down from now on.
func (o *outage) fail(name, cause string, isOnly bool, now time.Time) (isNew bool) {
	o.cause = cause
	switch {
	case o.isDown() && !isOnly: // it was sent before
		return false
	case o.isDown():
		o.interval = min(2*o.interval, maxProbe)
		o.next = now.Add(o.interval)
		return false
	}
	if now.Sub(o.last) > outageTime {
		*o = outage{cause: cause}
	}
	if o.names == nil {
		o.names = map[string]bool{}
	}
	o.failures++
	o.last = now
	if len(o.names) < outageNames {
		o.names[name] = true
	}
	if o.failures < outageFailures || len(o.names) < outageNames {
		return false
	}
	o.since, o.interval = now, minProbe
	o.next = now.Add(o.interval)
	return true
}

// succeed records an answer.
func (o *outage) succeed() {
	if o.failures > 0 || o.isDown() {
		*o = outage{}
	}
}
