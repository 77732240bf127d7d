package broker

import (
	"context"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

// The requests of an exchange are paced by how urgent it is (guarantee 16): for the caller that begins it, and
// for all who wait for its end.

// await records that a caller waits for the lock of a name, until done is called.
func (b *Broker) await(name string, p pacing.Priority) (done func()) {
	r := b.cached(name)
	if r == nil {
		return func() {}
	}
	r.mu.Lock()
	r.waiting[p]++
	admission := r.running.admission
	r.mu.Unlock()
	admission.Raise(p)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.waiting[p]--
	}
}

// raise makes the operation that is running at least as urgent as p.
func (r *record) raise(p pacing.Priority) {
	r.mu.Lock()
	r.running.urgency = max(r.running.urgency, p)
	admission := r.running.admission
	r.mu.Unlock()
	admission.Raise(p)
}

// admit returns the context of an exchange of the operation that is running.
func (r *record) admit(ctx context.Context) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := pacing.NewAdmission(BaseName(r.name), r.urgencyLocked())
	r.running.admission = a
	return pacing.With(ctx, a)
}

// runAs sets the operation that is running, whose requests have an admission already.
func (r *record) runAs(o operation, a *pacing.Admission) {
	o.urgency, o.admission = a.Priority(), a
	r.setRunning(o)
	r.mu.Lock()
	p := r.urgencyLocked()
	r.mu.Unlock()
	a.Raise(p)
}

// urgencyLocked returns how urgent the operation is that is running.
func (r *record) urgencyLocked() pacing.Priority {
	p := r.running.urgency
	for waiting := pacing.Operator; waiting > p; waiting-- {
		if r.waiting[waiting] > 0 {
			return waiting
		}
	}
	return p
}
