package pacing

import (
	"cmp"
	"sync"
	"time"
)

// maxRepeats is how often a request is sent again that the host has turned away.
const maxRepeats = 4

// A host is the state of a host.
type host struct {
	name   string
	closed <-chan struct{}
	report func(host, cause string, isDown bool)

	mu       sync.Mutex
	defined  float64 // by the definition of the vendor, in requests a second; zero for nothing
	queue    queue
	limit    limit
	quota    quota
	outage   outage
	latency  latency
	underWay int       // requests
	resting  int       // requests that wait until they can be sent again
	sent     int       // requests so far
	begun    int       // operations so far
	lastSeen time.Time // when the last request came or was answered

	throttled map[string]time.Time // until when a name counts as turned away

	isPaused    bool  // until a request is accepted after the pause
	probe       *Turn // such a request that is under way; nil for none
	pause       time.Duration
	pauseEnd    time.Time
	overload    time.Time // when the pause began
	expectedEnd time.Time // of the pause, by the vendor

	timer *time.Timer

	throttledTotal, unsentTotal uint64
}

func newHost(name string, p *Pacer) *host {
	now := time.Now()
	h := &host{name: name, closed: p.closed, report: p.report, limit: newLimit(), throttled: map[string]time.Time{}, lastSeen: now}
	h.limit.begin(now)
	return h
}

// update sets the limit that the operator states, and that of the definition of the vendor, in
// requests a second. Of definitions that name the same host, the last one counts.
func (h *host) update(stated, defined float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.defined = cmp.Or(defined, h.defined)
	h.limit.state(cmp.Or(stated, h.defined), time.Now())
}

func (h *host) isForgettable(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expire(now)
	return h.queue.len()+h.underWay+h.resting == 0 && !h.limit.isLearned && !h.outage.isDown() && now.Sub(h.lastSeen) > outageTime
}

// expire forgets what nobody has asked for lately.
func (h *host) expire(now time.Time) {
	if h.outage.isDown() && h.queue.len()+h.underWay == 0 && now.Sub(h.lastSeen) > outageMemory {
		h.outage = outage{}
	}
	h.limit.expire(now)
}

func (h *host) status(now time.Time) Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expire(now)
	s := Status{Host: h.name, IsKnown: true, DownSince: h.outage.since, Waiting: h.queue.len() + h.resting, Throttled: h.throttledTotal, Unsent: h.unsentTotal}
	if h.limit.isKnown() {
		s.RequestsPerSecond = h.limit.rate()
		s.IsStated = !h.limit.isLearned || s.RequestsPerSecond == h.limit.stated
	}
	switch {
	case h.outage.isDown():
		s.PauseUntil = h.outage.next
	case h.isPaused && now.Before(h.pauseEnd):
		s.PauseUntil = h.pauseEnd
	}
	return s
}

// enter admits a request: at once, into the queue, or not.
func (h *host) enter(t *Turn) (*waiter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.expire(now)
	if h.queue.len()+h.underWay+h.resting == 0 && now.Sub(h.lastSeen) > idleTime {
		h.limit.begin(now)
		h.latency = latency{}
	}
	h.lastSeen = now
	priority, hasBegun := t.admission.get()
	switch {
	case (!hasBegun || t.repeats > 0) && isClosed(h.closed):
		return nil, ErrClosed
	case priority == Operator, hasBegun && t.repeats == 0 && h.outage.isDown():
		h.sendLocked(t, now)
		return nil, nil
	}
	isRepeated := t.repeats > 0
	if !hasBegun || isRepeated {
		switch {
		case h.outage.only != nil:
			h.unsentTotal++
			return nil, h.down()
		case h.outage.isDown():
			h.outage.only = t
		}
		if next := h.expected(priority, now); next.After(now) && next.After(t.deadline(now)) {
			h.unsentTotal++
			h.release(t)
			return nil, h.late(priority, now)
		}
	}
	w := &waiter{
		host: h, turn: t, name: t.admission.name, priority: priority, hasBegun: hasBegun && !isRepeated, isRepeated: isRepeated, done: make(chan error, 1),
	}
	h.queue.push(w)
	if raised := t.admission.setWaiting(w); raised > priority { // meanwhile
		h.raiseLocked(w, raised, now)
	}
	h.dispatchLocked(now)
	return w, nil
}

// release lets another request be the only one to a host that is down, if this one is.
func (h *host) release(t *Turn) {
	if h.outage.only == t {
		h.outage.only = nil
	}
}

// late returns the error of a request that comes now and cannot wait.
func (h *host) late(p Priority, now time.Time) error {
	return &NotSentError{Host: h.name, Next: h.expected(p, now)}
}

// expected returns when it is the turn of a request that comes now. While a rate is not known, it is
// now.
func (h *host) expected(p Priority, now time.Time) time.Time {
	next := now
	if h.isPaused && h.expectedEnd.After(next) && now.Before(h.pauseEnd) {
		next = h.expectedEnd
	}
	if h.quota.wait(now) > 0 && h.quota.end.After(next) {
		next = h.quota.end
	}
	if h.limit.isKnown() {
		next = next.Add(h.limit.wait(now) + time.Duration(h.requestsEach()*float64(h.limit.delay(h.queue.ahead(p)))))
	}
	if h.outage.isDown() && h.outage.next.After(next) {
		next = h.outage.next
	}
	return next
}

func (h *host) down() error {
	return &DownError{Host: h.name, Cause: h.outage.cause, Since: h.outage.since, Next: h.outage.next}
}

// requestsEach returns how many requests an operation sends, on average.
func (h *host) requestsEach() float64 { return float64(h.sent) / float64(max(h.begun, 1)) }

// sendLocked records that a request is sent.
func (h *host) sendLocked(t *Turn, now time.Time) {
	h.limit.count(now)
	h.quota.count(now)
	h.underWay++
	h.sent++
	t.sent = now
	if t.admission.begin() || h.begun == 0 {
		h.begun++
	}
}

// sendNow sends a request that has waited, before its turn.
func (h *host) sendNow(w *waiter) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue.remove(w) {
		h.sendLocked(w.turn, time.Now())
		return nil
	}
	return <-w.done
}

// dispatchLocked sends the requests whose turn has come, and sets the timer for the next one.
func (h *host) dispatchLocked(now time.Time) {
	for h.queue.len() > 0 && h.probe == nil && h.underWay < h.limit.mayBeUnderWay() {
		if h.isPaused && now.Before(h.pauseEnd) {
			h.dispatchAfter(h.pauseEnd.Sub(now))
			return
		}
		if h.outage.isDown() && now.Before(h.outage.next) {
			h.dispatchAfter(h.outage.next.Sub(now))
			return
		}
		// Requests one after another do not need a limit.
		if wait := h.limit.wait(now); wait > 0 && (h.underWay > 0 || h.limit.isKnown()) {
			h.dispatchAfter(wait)
			return
		}
		if wait := h.quota.wait(now); wait > 0 {
			h.dispatchAfter(wait)
			return
		}
		w := h.queue.pop()
		if h.isPaused {
			h.probe = w.turn
		}
		h.sendLocked(w.turn, now)
		w.done <- nil
	}
}

// dispatchAfter dispatches after a time, or earlier.
func (h *host) dispatchAfter(wait time.Duration) {
	if h.timer == nil {
		h.timer = time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.dispatchLocked(time.Now())
		})
		return
	}
	h.timer.Reset(wait)
}

// started records that a request is sent only now, as it took time to build.
func (h *host) started(t *Turn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.sent = time.Now()
}

// leave takes a waiter out of the queue, whose request is not sent for a reason. It returns nil if its
// turn has come meanwhile.
func (h *host) leave(w *waiter, reason func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue.remove(w) {
		h.unsentTotal++
		h.release(w.turn)
		return reason()
	}
	return <-w.done
}

func (h *host) raise(w *waiter, p Priority) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.raiseLocked(w, p, time.Now())
}

func (h *host) raiseLocked(w *waiter, p Priority, now time.Time) {
	if p < Operator {
		h.queue.raise(w, p)
		return
	}
	if h.queue.remove(w) {
		h.sendLocked(w.turn, now)
		w.done <- nil
	}
}

// rest counts a request that waits until it can be sent again. The returned function ends that.
func (h *host) rest() (end func()) {
	count := func(by int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.resting += by
	}
	count(1)
	return func() { count(-1) }
}

// answered records how a request ended, and reports whether to send it again.
func (h *host) answered(t *Turn, r Result) (repeat bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	defer func() { h.dispatchLocked(now) }()
	h.underWay--
	h.lastSeen = now
	if h.probe == t {
		h.probe = nil
	}
	isOnly := h.outage.only == t
	h.release(t)
	name := t.admission.name
	h.quota.note(name, r.Quota, h.sent, h.underWay, now)
	switch r.Outcome {
	case Accepted:
		h.succeed()
		h.latency.note(now.Sub(t.sent))
		h.limit.noteAccepted(now, h.queue.len() > 0 && !h.latency.isSlow())
		if h.isPaused && !t.sent.Before(h.pauseEnd) {
			h.isPaused, h.probe, h.pause, h.expectedEnd = false, nil, 0, time.Time{}
			h.limit.resume(now)
		}
	case Throttled:
		h.throttledTotal++
		h.succeed()
		isBusy := h.limit.isLearned || h.queue.len()+h.underWay+h.resting >= busyRequests
		h.turnedAway(t, name, r.RetryAfter, now)
		priority, _ := t.admission.get()
		t.notBefore = now.Add(r.RetryAfter) // also if it is only about the name, and the host does not pause
		deadline := t.deadline(now)
		isInTime := !t.notBefore.After(deadline) && !h.expected(priority, now).After(deadline)
		return isBusy && isInTime && priority != Operator && t.repeats < maxRepeats
	case Failed:
		if r.RetryAfter > 0 && h.limit.accepted.count(now) > 0 { // others are answered
			h.turnedAway(t, name, r.RetryAfter, now)
		}
		if h.outage.fail(name, r.Cause, isOnly, now) {
			h.report(h.name, r.Cause, true)
			h.refuse(func(w *waiter) error {
				if w.hasBegun {
					return nil
				}
				return h.down()
			})
		}
	}
	return false
}

// succeed records that the host answers.
func (h *host) succeed() {
	if h.outage.isDown() {
		h.report(h.name, "", false)
	}
	h.outage.succeed()
}

func isClosed(closed <-chan struct{}) bool {
	select {
	case <-closed:
		return true
	default:
		return false
	}
}
