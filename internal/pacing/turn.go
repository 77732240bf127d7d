package pacing

import (
	"context"
	"time"
)

// An Outcome is how a request ended.
type Outcome int

const (
	// Unknown is for a request whose end says nothing about the host, such as a canceled one.
	Unknown Outcome = iota

	// Accepted is for an answer of the vendor, also if it refuses what was asked for.
	Accepted

	// Throttled is for status 429.
	Throttled

	// Failed is for a request that the host did not answer, and for a server error.
	Failed
)

// A Result is what the end of a request says about the host.
type Result struct {
	Outcome    Outcome
	Cause      string        // why the request failed, in words that concern no single credential
	RetryAfter time.Duration // zero if not stated
	Quota      Quota
}

// A Turn is a request that can be sent, and may be sent again.
type Turn struct {
	host      *host
	admission *Admission
	end       time.Time // of its context; zero for none
	repeats   int
	notBefore time.Time // when it can be sent again

	// sent is when the request was sent. host.mu guards it.
	sent time.Time
}

// Started records that the request is sent now, if it took time to build once its turn had come.
func (t *Turn) Started() { t.host.started(t) }

// Answered records how the request ended. It reports whether the host has turned it away, and would
// take it in time, so that the caller can send it again after Again.
func (t *Turn) Answered(r Result) (repeat bool) { return t.host.answered(t, r) }

// Again waits until the request can be sent again. The errors are those of [Pacer.Wait].
func (t *Turn) Again(ctx context.Context) error {
	t.repeats++
	if err := t.rest(ctx); err != nil {
		return err
	}
	return t.wait(ctx)
}

// rest waits until the request can be sent again.
func (t *Turn) rest(ctx context.Context) error {
	defer t.host.rest()()
	timer := time.NewTimer(time.Until(t.notBefore))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.host.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// timeToSend is the least time that is left of its context when a request is sent that has waited.
const timeToSend = 2 * time.Second

// deadline returns until when the request waits.
func (t *Turn) deadline(now time.Time) time.Time {
	deadline := t.admission.deadline(now)
	if end := t.end.Add(-timeToSend); !t.end.IsZero() && end.Before(deadline) {
		deadline = end
	}
	if deadline.Before(now) {
		return now
	}
	return deadline
}

func (t *Turn) wait(ctx context.Context) error {
	t.end, _ = ctx.Deadline()
	w, err := t.host.enter(t)
	if w == nil {
		return err
	}
	defer t.admission.setWaiting(nil)
	timer := time.NewTimer(time.Until(t.deadline(time.Now())))
	defer timer.Stop()
	for {
		select {
		case err := <-w.done:
			return err
		case <-t.host.closed:
			if !w.hasBegun {
				return t.host.leave(w, func() error { return ErrClosed })
			}
			return t.host.sendNow(w)
		case <-ctx.Done():
			err := t.host.leave(w, ctx.Err)
			if err == nil { // its turn has just come
				t.Answered(Result{})
				err = ctx.Err()
			}
			return err
		case <-timer.C:
			if left := time.Until(t.deadline(time.Now())); left > 0 { // it was raised
				timer.Reset(left)
				continue
			}
			if w.hasBegun {
				return t.host.sendNow(w)
			}
			return t.host.leave(w, func() error { return t.host.late(w.priority, time.Now()) })
		}
	}
}
