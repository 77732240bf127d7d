package events

import "sync"

// maxQueued is the maximum number of events in a Queue. Further events are dropped.
const maxQueued = 1000

// A Queue sends events in the background, one at a time and in order, so that reads do not wait for
// the server. It is safe for concurrent use.
type Queue struct {
	send func(Event)
	full func()

	mu       sync.Mutex
	queued   []Event
	sending  bool
	dropping bool
	closed   bool

	// reported holds the expiries for which an event was queued.
	reported map[expiry]bool
}

// NewQueue returns an empty Queue. The queue calls send for each event. It calls full when it drops
// an event, and not again until it has been empty.
func NewQueue(send func(Event), full func()) *Queue {
	return &Queue{send: send, full: full, reported: map[expiry]bool{}}
}

// add queues an event and reports whether it did: it does not if the queue is full or closed.
func (q *Queue) add(e Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return false
	case len(q.queued) == maxQueued:
		if !q.dropping {
			q.dropping = true
			q.full()
		}
		return false
	}
	q.queued = append(q.queued, e)
	if !q.sending {
		q.sending = true
		go q.sendAll()
	}
	return true
}

func (q *Queue) isReported(e expiry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reported[e]
}

// setReported records whether an event was queued for an expiry.
func (q *Queue) setReported(e expiry, reported bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if reported {
		q.reported[e] = true
	} else {
		delete(q.reported, e)
	}
}

// Close drops the queued events and those added later. It does not interrupt an event that is being
// sent.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.queued = true, nil
}

func (q *Queue) sendAll() {
	for {
		q.mu.Lock()
		if len(q.queued) == 0 {
			q.sending, q.dropping = false, false
			q.mu.Unlock()
			return
		}
		next := q.queued[0]
		q.queued = q.queued[1:]
		q.mu.Unlock()
		q.send(next)
	}
}
