// Package pacing paces the requests of a mount to each host of a vendor (guarantee 16). Requests wait
// in a queue for their turn: the most urgent first, and names in turn. How many requests a second a
// host takes is stated by the operator or by the definition of the vendor, or learned from the
// requests that it turns away with status 429, from Retry-After and RateLimit headers, and from the
// time that it takes to answer. A host that is down gets one request at a time.
//
// The package knows neither Vault nor the vendors' APIs. The pacing of one host is in host.go, its
// parts are in queue.go, limit.go, quota.go and outage.go.
package pacing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrClosed means that the mount is being unloaded.
var ErrClosed = errors.New("the engine is closing")

// A NotSentError means that a request was not sent, as its turn does not come in time.
type NotSentError struct {
	Host string
	Next time.Time // when it would be its turn
}

func (e *NotSentError) Error() string {
	return fmt.Sprintf("%s takes fewer requests than are waiting for it, so the request was not sent", e.Host)
}

// A DownError means that a request was not sent, as the host has not answered others.
type DownError struct {
	Host  string
	Cause string // of the last failure
	Since time.Time
	Next  time.Time // when the next request is sent
}

func (e *DownError) Error() string {
	return fmt.Sprintf("%s does not answer the requests of several credentials (%s), so this one was not sent", e.Host, e.Cause)
}

// A Pacer paces the requests of one mount. It is safe for concurrent use.
type Pacer struct {
	closed  chan struct{}
	closing sync.Once
	report  func(host, cause string, isDown bool)

	mu     sync.Mutex
	hosts  map[string]*host
	stated map[string]float64 // by the operator, in requests a second
	prune  int                // the number of hosts at which those without traffic are removed
}

// New returns a Pacer without hosts. report is called when a host is found to be down, with the cause of
// the last failure, and when it answers again. It must return at once, and not call the Pacer; nil for
// no reports.
func New(report func(host, cause string, isDown bool)) *Pacer {
	if report == nil {
		report = func(string, string, bool) {}
	}
	return &Pacer{closed: make(chan struct{}), report: report, hosts: map[string]*host{}, prune: minPrune}
}

// Close ends all waits with ErrClosed. Only requests of operations that have begun are sent after it.
func (p *Pacer) Close() { p.closing.Do(func() { close(p.closed) }) }

// SetStated sets the limits that the operator states, in requests a second by host. They take
// precedence over those that definitions state.
func (p *Pacer) SetStated(limits map[string]float64) {
	p.mu.Lock()
	p.stated = maps.Clone(limits)
	hosts := slices.Collect(maps.Values(p.hosts))
	p.mu.Unlock()
	for _, h := range hosts {
		h.update(limits[h.name], 0)
	}
}

// Wait waits until a request to a host can be sent, and returns its turn, whose Answered must be
// called. defined is what the definition of the vendor states, in requests a second; zero for nothing.
// The errors are ErrClosed, that of ctx, and of type *NotSentError and *DownError.
func (p *Pacer) Wait(ctx context.Context, name string, defined float64) (*Turn, error) {
	t := &Turn{host: p.host(name, defined), admission: admissionOf(ctx)}
	return t, t.wait(ctx)
}

// minPrune is the least number of hosts at which those without traffic are removed.
const minPrune = 100

func (p *Pacer) host(name string, defined float64) *host {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[name]
	if h == nil {
		if len(p.hosts) >= p.prune {
			maps.DeleteFunc(p.hosts, func(_ string, h *host) bool { return h.isForgettable(time.Now()) })
			p.prune = max(minPrune, 2*len(p.hosts))
		}
		h = newHost(name, p)
		p.hosts[name] = h
	}
	h.update(p.stated[name], defined)
	return h
}

// A Status is the state of a host, for operators.
type Status struct {
	Host    string
	IsKnown bool // whether there were requests to the host lately

	// RequestsPerSecond is the rate at which requests are sent; zero if no limit is known. IsStated is
	// whether it is what the operator or the definition of the vendor states, and not lower.
	RequestsPerSecond float64
	IsStated          bool

	DownSince  time.Time // zero if the host is not down
	PauseUntil time.Time // when the next request is sent, if the host is down or asked for a pause; else zero
	Waiting    int       // requests

	// Throttled and Unsent count the requests that the host turned away, and those that were not sent.
	Throttled, Unsent uint64
}

// IsDown reports whether the host does not answer.
func (s Status) IsDown() bool { return !s.DownSince.IsZero() }

// Status returns the state of a host; the zero Status but for the name if there were no requests to it.
func (p *Pacer) Status(name string) Status {
	p.mu.Lock()
	h, stated := p.hosts[name], p.stated[name]
	p.mu.Unlock()
	if h == nil {
		return Status{Host: name, RequestsPerSecond: stated, IsStated: stated > 0}
	}
	return h.status(time.Now())
}

// Limited returns the state of each host that is down, has a limit, or has turned requests away,
// sorted by name.
func (p *Pacer) Limited() []Status {
	p.mu.Lock()
	hosts := slices.Collect(maps.Values(p.hosts))
	p.mu.Unlock()
	var all []Status
	for _, h := range hosts {
		if s := h.status(time.Now()); s.IsDown() || s.RequestsPerSecond > 0 || s.Throttled > 0 || s.Unsent > 0 {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Host, b.Host) })
	return all
}
