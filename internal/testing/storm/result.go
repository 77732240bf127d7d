package storm

import (
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A Storm is a moment at which the tokens of all readers expire together.
type Storm struct {
	Readers *Record

	// Expiry is when the tokens expire, and Begin is when the engine begins to take them for
	// expired: up to a second earlier if the vendor states lifetimes in whole seconds. Times count
	// from Begin.
	Expiry, Begin time.Time

	// Least is the least time in which all readers can have a new token.
	Least time.Duration

	// Before, At and After are the traffic of the vendor before the first exchange, at Begin, and
	// after the last reader has its token.
	Before, At, After vendorsim.Traffic
}

// A Result has the figures of a storm. Times are in seconds from its begin until a reader has a new
// token.
type Result struct {
	Readers  int     `json:"readers"`
	Unserved int     `json:"unserved"` // the readers that got no new token
	Least    float64 `json:"least_s"`
	Median   float64 `json:"median_s"`
	P90      float64 `json:"p90_s"`
	P99      float64 `json:"p99_s"`
	Last     float64 `json:"last_s"`

	Accepted  int     `json:"accepted"`  // requests to the vendor
	Throttled int     `json:"throttled"` // requests to the vendor in addition
	Idle      float64 `json:"idle_s"`    // how long the vendor had nothing to do

	Failed int `json:"failed"` // requests of readers
	Hasty  int `json:"hasty"`  // those that failed though waiting, for at most Patience, would have helped
}

// Result returns the figures of the storm.
func (s Storm) Result() Result {
	waits := s.Readers.waits(s.Expiry, s.Begin)
	slices.Sort(waits)
	r := Result{
		Readers: len(s.Readers.requests), Unserved: len(s.Readers.requests) - len(waits), Least: s.Least.Seconds(),
		Median: percentile(waits, 50), P90: percentile(waits, 90), P99: percentile(waits, 99), Last: percentile(waits, 100),
		Accepted: s.After.Accepted - s.Before.Accepted, Throttled: s.After.Throttled - s.Before.Throttled,
		Idle: (s.After.Idle - s.At.Idle).Seconds(),
	}
	r.Failed, r.Hasty = s.Readers.failures(s.Expiry, s.Begin, s.Least)
	return r
}

// ThrottledPart returns the part of the requests that the vendor throttled.
func (r Result) ThrottledPart() float64 {
	if r.Throttled == 0 {
		return 0
	}
	return float64(r.Throttled) / float64(r.Accepted+r.Throttled)
}

// Ratio returns the time of the last reader, relative to the least possible.
func (r Result) Ratio() float64 { return r.Last / r.Least }

// String returns the figures on one line.
func (r Result) String() string {
	return fmt.Sprintf("%d readers (%d unserved): median %.1f s, p90 %.1f s, p99 %.1f s, last %.1f s (least %.1f s: %.2f); "+
		"%d requests to the vendor, %d throttled (%.1f %%), idle %.1f s; %d reads failed, %d hastily",
		r.Readers, r.Unserved, r.Median, r.P90, r.P99, r.Last, r.Least, r.Ratio(),
		r.Accepted+r.Throttled, r.Throttled, 100*r.ThrottledPart(), r.Idle, r.Failed, r.Hasty)
}

// percentile returns the seconds that at least percent % of the durations do not exceed; 0 if there
// are none.
func percentile(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*percent+99)/100-1].Seconds()
}
