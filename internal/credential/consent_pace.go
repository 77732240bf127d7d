package credential

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// minPause is the least time between two calls of a vendor for a consent that did not succeed, and
	// between two requests for device codes (RFC 8628 §3.2).
	minPause = 5 * time.Second

	// maxPause bounds a vendor's Retry-After (guarantee 4).
	maxPause = time.Hour
)

// pauses are until when the vendor is not called for the consents to credentials, by their names. They are not
// stored. It is safe for concurrent use.
type pauses struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// begin begins a pause, and returns when it ends.
func (p *pauses) begin(name string, d time.Duration) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.until, func(_ string, until time.Time) bool { return !now.Before(until) })
	if p.until == nil {
		p.until = map[string]time.Time{}
	}
	p.until[name] = now.Add(min(max(d, minPause), maxPause))
	return p.until[name]
}

// check returns a *PauseError during a pause.
func (p *pauses) check(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := p.until[name]; time.Now().Before(until) {
		return &PauseError{until}
	}
	return nil
}

// A PauseError means that the vendor is not called for a consent yet.
type PauseError struct{ Next time.Time }

func (e *PauseError) Error() string {
	return fmt.Sprintf("the engine does not call the vendor for another consent before %s", broker.FormatNext(e.Next))
}

// isPaused returns a *PauseError if the vendor has asked to wait before it is called for a consent.
func (st *Store) isPaused(name string) error { return st.vendorPauses.check(name) }

// pauseAfter begins a pause if the vendor was unavailable or asks to wait, and returns the error of the call with
// the end of the pause.
func (st *Store) pauseAfter(name string, err error) (next time.Time, told error) {
	var e *provider.Error
	if !errors.As(err, &e) || e.Kind != provider.Unavailable && e.RetryAfter == 0 || e.NotSent {
		return time.Time{}, err
	}
	next = st.vendorPauses.begin(name, e.RetryAfter)
	return next, fmt.Errorf("%w; next attempt at %s", err, broker.FormatNext(next))
}

// mayRetry reports whether the code of the attempt can be sent again at a time: the vendor has not considered it.
func (c *ConsentAttempt) mayRetry(err error, next time.Time) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.Kind == provider.Unavailable && e.NotConsidered && next.Before(c.ExpireTime)
}
