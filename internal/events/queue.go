package events

import "sync"

// maxQueued is how many events may wait to be sent. Events that a server does not take in time
// are lost.
const maxQueued = 1000

// A Queue sends events one after the other, in the order in which they were added. No reader
// waits for that.
type Queue struct {
	send func(Event)
	full func()

	mu       sync.Mutex
	queued   []Event
	sending  bool
	dropping bool
	closed   bool

	// reported are the expiries for which there has been an event.
	reported map[expiry]bool
}

// NewQueue returns an empty Queue. It calls send for each event, and full when it drops the
// first one, once until it is empty again.
func NewQueue(send func(Event), full func()) *Queue {
	return &Queue{send: send, full: full, reported: map[expiry]bool{}}
}

// add reports whether the event will be sent: not if too many wait, or after Close.
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

// report keeps whether there has been an event for an expiry.
func (q *Queue) report(e expiry, reported bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if reported {
		q.reported[e] = true
	} else {
		delete(q.reported, e)
	}
}

// Close drops the events that wait. The one that is being sent still is.
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
