package pacing

import (
	"container/heap"
	"time"
)

// A waiter is a request that waits for its turn. host.mu guards it.
type waiter struct {
	host     *host
	turn     *Turn
	name     string
	priority Priority

	// round is the number of the name's turn among those of its priority, so that names take turns
	// however many requests each has. seq is the order of arrival.
	round, seq uint64

	// hasBegun is whether other requests of the operation were sent. It is the next of all, and is not refused.
	hasBegun bool

	// isRepeated is whether the vendor has turned the request away before. It waits behind the next
	// repeatedBehind, so that one name's requests do not stand for all.
	isRepeated bool

	index int // in the queue; -1 if it has left

	// done receives nil when the request can be sent, or why it is not sent.
	done chan error
}

// A queue holds the waiters of a host: the most urgent first, then names in turn, then by arrival.
type queue struct {
	heap   waiters
	counts [priorities]int
	rounds [priorities]uint64            // of the last waiter that left
	turns  [priorities]map[string]uint64 // the last round of each name that has waiters
	seq    uint64
}

func (q *queue) len() int { return len(q.heap) }

// ahead returns how many waiters are served before one of a priority that arrives now, at most.
func (q *queue) ahead(p Priority) (n int) {
	for _, count := range q.counts[p:] {
		n += count
	}
	return n
}

func (q *queue) push(w *waiter) {
	q.seq++
	w.seq = q.seq
	if w.isRepeated && len(q.heap) > 0 {
		w.seq = q.heap[0].seq + repeatedBehind
	}
	q.take(w)
	heap.Push(&q.heap, w)
}

const repeatedBehind = 10

// take counts a waiter and gives it its round.
func (q *queue) take(w *waiter) {
	p := w.priority
	q.counts[p]++
	if q.turns[p] == nil {
		q.turns[p] = map[string]uint64{}
	}
	if w.isRepeated {
		w.round = q.rounds[p]
		return
	}
	w.round = max(q.rounds[p], q.turns[p][w.name]+1)
	q.turns[p][w.name] = w.round
}

// give is the inverse of take. What is known of turns is forgotten once nobody waits.
func (q *queue) give(w *waiter) {
	p := w.priority
	q.counts[p]--
	if q.counts[p] == 0 {
		q.rounds[p], q.turns[p] = 0, nil
	}
}

func (q *queue) pop() *waiter {
	w := heap.Pop(&q.heap).(*waiter)
	q.rounds[w.priority] = max(q.rounds[w.priority], w.round)
	q.give(w)
	return w
}

// remove removes a waiter, and reports whether it was there.
func (q *queue) remove(w *waiter) bool {
	if w.index < 0 {
		return false
	}
	heap.Remove(&q.heap, w.index)
	q.give(w)
	return true
}

// raise makes a waiter more urgent, unless it has left.
func (q *queue) raise(w *waiter, p Priority) {
	if w.index < 0 || p <= w.priority {
		return
	}
	q.give(w)
	w.priority = p
	q.take(w)
	heap.Fix(&q.heap, w.index)
}

// waiters implements heap.Interface.
type waiters []*waiter

func (h waiters) Len() int { return len(h) }

func (h waiters) Less(i, j int) bool {
	a, b := h[i], h[j]
	switch {
	case a.hasBegun != b.hasBegun:
		return a.hasBegun
	case a.priority != b.priority:
		return a.priority > b.priority
	case a.round != b.round:
		return a.round < b.round
	}
	return a.seq < b.seq
}

func (h waiters) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *waiters) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}

func (h *waiters) Pop() any {
	old := *h
	last := len(old) - 1
	w := old[last]
	old[last], *h = nil, old[:last]
	w.index = -1
	return w
}

// A window counts what happened within the last second.
type window struct{ times []time.Time }

const windowTime = time.Second

func (w *window) add(now time.Time) {
	w.prune(now)
	w.times = append(w.times, now)
}

func (w *window) count(now time.Time) int {
	w.prune(now)
	return len(w.times)
}

func (w *window) prune(now time.Time) {
	old := 0
	for old < len(w.times) && now.Sub(w.times[old]) > windowTime {
		old++
	}
	w.times = w.times[old:]
}
