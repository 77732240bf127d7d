package storm

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Patience is how long a reader can wait for a response. Vault Agent and the command-line client
// wait longer.
const Patience = 10 * time.Second

// A Record has the requests of some readers, which are numbered from 0. It is safe for concurrent
// use.
type Record struct {
	mu       sync.Mutex
	requests [][]request // by reader
	expiries []time.Time // of the last tokens, by reader

	awaited time.Time     // see Await
	missing int           // the readers without a token that is valid after awaited
	served  chan struct{} // closed when none is missing; nil if nobody waits
}

type request struct {
	began, ended time.Time
	status       int
	expiry       time.Time
}

// NewRecord returns an empty record for a number of readers.
func NewRecord(readers int) *Record {
	return &Record{requests: make([][]request, readers), expiries: make([]time.Time, readers)}
}

// Add records a request of a reader that ends now.
func (r *Record) Add(reader int, began time.Time, a Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests[reader] = append(r.requests[reader], request{began: began, ended: time.Now(), status: a.Status, expiry: a.Expiry})
	if !a.Expiry.After(r.expiries[reader]) {
		return
	}
	isServed := !r.expiries[reader].After(r.awaited) && a.Expiry.After(r.awaited)
	r.expiries[reader] = a.Expiry
	if isServed && r.served != nil {
		if r.missing--; r.missing == 0 {
			close(r.served)
			r.served = nil
		}
	}
}

// Await waits until all readers have a token that is valid after a moment, or until ctx ends. Only
// one caller can wait at a time.
func (r *Record) Await(ctx context.Context, moment time.Time) {
	r.mu.Lock()
	r.awaited, r.missing, r.served = moment, 0, nil
	for _, expiry := range r.expiries {
		if !expiry.After(moment) {
			r.missing++
		}
	}
	if r.missing == 0 {
		r.mu.Unlock()
		return
	}
	served := make(chan struct{})
	r.served = served
	r.mu.Unlock()
	select {
	case <-served:
	case <-ctx.Done():
	}
}

// waits returns how long after begin each reader had the first token that is valid after expiry. A
// reader without one is not in the result.
func (r *Record) waits(expiry, begin time.Time) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []time.Duration
	for _, requests := range r.requests {
		for _, q := range requests {
			if q.expiry.After(expiry) {
				all = append(all, max(0, q.ended.Sub(begin)))
				break
			}
		}
	}
	return all
}

// failures returns the number of requests that failed around begin, before their readers had a token
// that is valid after expiry. It also returns how many of them failed hastily: before the end of a
// reader's patience, though all readers could have been served by then. least is the least time in
// which that is possible.
func (r *Record) failures(expiry, begin time.Time, least time.Duration) (failed, hasty int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, requests := range r.requests {
		for _, q := range requests {
			if q.expiry.After(expiry) {
				break
			}
			if q.status == http.StatusOK || q.ended.Before(begin.Add(-Patience)) {
				continue
			}
			failed++
			from := q.began
			if from.Before(begin) {
				from = begin
			}
			if end := from.Add(Patience); q.ended.Before(end) && !end.Before(begin.Add(least)) {
				hasty++
			}
		}
	}
	return failed, hasty
}
