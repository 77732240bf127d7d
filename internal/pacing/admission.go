package pacing

import (
	"context"
	"sync"
	"time"
)

// A Priority is how urgent a request is. The most urgent requests are sent first.
type Priority int

const (
	// Background is for requests that nobody waits for.
	Background Priority = iota

	// Ahead is for requests of readers that have a valid token.
	Ahead

	// Awaited is for requests of readers and other callers who wait for the result.
	Awaited

	// Operator is for what an operator asks for now, such as a refresh. Such requests are sent at once.
	Operator

	priorities = iota
)

// Patience is how long the requests of an operation wait for their turns in all. Those that nobody waits
// for, or whose reader has a valid token, wait for backgroundPatience, as another attempt follows.
const (
	Patience           = 30 * time.Second
	backgroundPatience = 5 * time.Second
)

// An Admission is what the requests of one operation, such as an exchange, have in common. It is safe
// for concurrent use.
type Admission struct {
	name string // whose operation it is; names take turns

	mu       sync.Mutex
	priority Priority
	patience time.Duration // zero for that of the priority
	first    time.Time     // when the first request waited
	hasBegun bool          // one of the requests was sent
	waiting  *waiter       // nil if none of the requests waits
}

// NewAdmission returns the admission of an operation of a name.
func NewAdmission(name string, p Priority) *Admission { return &Admission{name: name, priority: p} }

// Patient returns the admission, whose requests wait for another time than usual.
func (a *Admission) Patient(patience time.Duration) *Admission {
	a.patience = patience
	return a
}

// Priority returns how urgent the operation is now.
func (a *Admission) Priority() Priority {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.priority
}

// Raise makes the operation at least as urgent as p, also a request of it that already waits. It does
// nothing for nil.
func (a *Admission) Raise(p Priority) {
	if a == nil {
		return
	}
	a.mu.Lock()
	isRaised := p > a.priority
	if isRaised {
		a.priority = p
	}
	waiting := a.waiting
	a.mu.Unlock()
	if isRaised && waiting != nil {
		waiting.host.raise(waiting, p)
	}
}

// deadline returns until when the requests of the operation wait.
func (a *Admission) deadline(now time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first.IsZero() {
		a.first = now
	}
	switch {
	case a.patience > 0:
		return a.first.Add(a.patience)
	case a.priority < Awaited:
		return a.first.Add(backgroundPatience)
	}
	return a.first.Add(Patience)
}

// begin records that a request of the operation is sent, and reports whether it is the first.
func (a *Admission) begin() (isFirst bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	isFirst = !a.hasBegun
	a.hasBegun, a.waiting = true, nil
	return isFirst
}

// setWaiting records the request that waits, or nil. It returns the present priority.
func (a *Admission) setWaiting(w *waiter) Priority {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = w
	return a.priority
}

func (a *Admission) get() (p Priority, hasBegun bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.priority, a.hasBegun
}

type admissionKey struct{}

// With returns a context whose requests belong to an operation. Requests without an operation are
// those of a caller who waits.
func With(ctx context.Context, a *Admission) context.Context {
	return context.WithValue(ctx, admissionKey{}, a)
}

// Of returns the operation that the requests of a context belong to; nil if there is none.
func Of(ctx context.Context) *Admission {
	a, _ := ctx.Value(admissionKey{}).(*Admission)
	return a
}

func admissionOf(ctx context.Context) *Admission {
	if a := Of(ctx); a != nil {
		return a
	}
	return NewAdmission("", Awaited)
}
