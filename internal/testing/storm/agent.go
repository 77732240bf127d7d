// Package storm has what a storm of readers consists of, for simulations and for benchmarks: readers
// with the timing of Vault Agent, and a record of what each of them gets.
package storm

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"
)

// The timing of Vault Agent 1.19: that of its template engine (consul-template 0.39.1), and that of
// Vault's API client, which repeats a request by itself.
const (
	// Agent reads again after leaseFraction of a lease that is not renewable, plus or minus half of
	// leaseSpread. It adds cushion to the ttl of a secret without a lease.
	leaseFraction = 0.90
	leaseSpread   = 0.1
	cushion       = time.Second

	// The client repeats a request that fails with 429 or 5xx, twice. It waits between retryLeast
	// and retryMost before the first repetition, and twice that before the second. readTimeout
	// bounds all three.
	repetitions = 2
	retryLeast  = time.Second
	retryMost   = 1500 * time.Millisecond
	readTimeout = time.Minute

	// Agent repeats a read that has failed in this way up to attempts times. It waits for
	// firstPause, and then twice as long each time, up to longestPause.
	attempts     = 12
	firstPause   = 250 * time.Millisecond
	longestPause = time.Minute
)

// An Answer is the result of one request.
type Answer struct {
	Status int // of HTTP; 0 if there was no response in time

	// Expiry is when the vendor stops accepting the token; the zero time if there is no token.
	Expiry time.Time

	Lease time.Duration // of creds/
	TTL   time.Duration // of token/
}

// An Agent is a reader with the timing of Vault Agent.
type Agent struct {
	// Get sends one request. It returns an Answer without a status if ctx ends first.
	Get func(ctx context.Context) Answer

	// Random is used by no other goroutine.
	Random *rand.Rand

	// Answered is called after each request.
	Answered func(began time.Time, a Answer)
}

// Run reads until ctx ends. It returns false if Agent gives up before that, after many failures in
// a row.
func (a *Agent) Run(ctx context.Context) bool {
	for failures := 0; ctx.Err() == nil; {
		answer := a.read(ctx)
		var wait time.Duration
		switch {
		case answer.Status == http.StatusOK:
			failures = 0
			wait = a.next(answer)
		case ctx.Err() != nil:
		case failures == attempts:
			return false
		default:
			wait = min(firstPause<<failures, longestPause)
			failures++
		}
		pause(ctx, wait)
	}
	return true
}

// next returns how long Agent waits after a read.
func (a *Agent) next(answer Answer) time.Duration {
	if answer.Lease == 0 {
		return answer.TTL + cushion
	}
	fraction := leaseFraction + (a.Random.Float64()-0.5)*leaseSpread
	return time.Duration(fraction * float64(answer.Lease))
}

// read reads once, with the repetitions of the client.
func (a *Agent) read(ctx context.Context) Answer {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for repetition := 0; ; repetition++ {
		began := time.Now()
		answer := a.Get(ctx)
		a.Answered(began, answer)
		if !isRepeated(answer.Status) || repetition == repetitions {
			return answer
		}
		jitter := a.Random.Float64() * float64(retryMost-retryLeast)
		pause(ctx, (retryLeast+time.Duration(jitter))*time.Duration(repetition+1))
		if ctx.Err() != nil {
			return answer
		}
	}
}

// isRepeated reports whether the client repeats a request with this status by itself.
func isRepeated(status int) bool {
	return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError && status != http.StatusNotImplemented
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
