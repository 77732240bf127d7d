package pacing

import (
	"maps"
	"slices"
	"time"
)

const (
	// After an overload, no request is sent for minPause, or for Retry-After, but at most for maxPause. Then one
	// request probes. The pause grows while probes are turned away. While the host accepts more than it
	// turns away, a Retry-After over busyPause is not about the host.
	minPause  = 100 * time.Millisecond
	maxPause  = 20 * time.Second
	busyPause = 2 * time.Second

	// An overload is that overloadNames names are turned away within a second, and one request for each
	// overloadPart that are accepted. The vendor may turn away single ones for reasons of its own.
	overloadNames = 3
	overloadPart  = 50

	// busyRequests is how many requests there are within a second on a host that is busy. Only those say
	// how many it takes.
	busyRequests = 10
)

// turnedAway records that the host has turned a request away, and pauses if it is overloaded.
func (h *host) turnedAway(t *Turn, name string, retryAfter time.Duration, now time.Time) {
	accepted := h.limit.accepted.count(now)
	h.throttled[name] = now.Add(windowTime)
	maps.DeleteFunc(h.throttled, func(_ string, until time.Time) bool { return now.After(until) })
	if accepted > len(h.throttled) {
		retryAfter = min(retryAfter, busyPause)
	}
	pause := min(max(retryAfter, minPause), maxPause)
	if h.isPaused {
		if !t.sent.Before(h.pauseEnd) { // it has probed
			h.pause = min(max(h.pause*3/2, pause), maxPause)
			h.pauseEnd = now.Add(h.pause)
		} else if end := now.Add(pause); retryAfter > 0 && end.After(h.pauseEnd) {
			h.pauseEnd = end
		}
		h.expect(now.Add(retryAfter), now)
		return
	}
	isOverload := len(h.throttled) >= overloadNames && len(h.throttled)*overloadPart >= accepted || len(h.throttled) > 1 && accepted == 0
	if !isOverload || t.sent.Before(h.overload) {
		return
	}
	isBusy := accepted+len(h.throttled)+h.queue.len() >= busyRequests
	if !isBusy && retryAfter == 0 {
		return
	}
	if isBusy {
		h.limit.noteOverload(now)
	}
	h.isPaused, h.pause, h.pauseEnd, h.overload = true, pause, now.Add(pause), now
	h.expect(h.pauseEnd, now)
	h.expect(now.Add(retryAfter), now)
}

// expect notes when the vendor says that it will accept requests again, and refuses those that cannot
// wait until then.
func (h *host) expect(end, now time.Time) {
	if !end.After(h.expectedEnd) {
		return
	}
	h.expectedEnd = end
	if end.After(now.Add(maxPause)) {
		h.refuse(func(w *waiter) error {
			if !w.hasBegun && w.turn.deadline(now).Before(end) {
				return &NotSentError{Host: h.name, Next: end}
			}
			return nil
		})
	}
}

// refuse refuses the waiters for which why returns a reason.
func (h *host) refuse(why func(*waiter) error) {
	for _, w := range slices.Clone(h.queue.heap) {
		if err := why(w); err != nil {
			h.queue.remove(w)
			h.unsentTotal++
			h.release(w.turn)
			w.done <- err
		}
	}
}

// A latency is how long a host takes to answer, within a period of traffic.
type latency struct{ fastest, recent time.Duration }

func (l *latency) note(took time.Duration) {
	if l.recent == 0 {
		l.fastest, l.recent = took, took
		return
	}
	l.fastest = min(l.fastest, took)
	l.recent += (took - l.recent) / 8
}

// isSlow reports whether answers take much longer than the fastest one, so that more requests at a time
// would not be answered earlier.
func (l *latency) isSlow() bool { return l.recent > 3*l.fastest+100*time.Millisecond }
