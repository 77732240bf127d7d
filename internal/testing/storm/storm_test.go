package storm

import (
	"context"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// reads runs an Agent until it has read a number of times, or gives up. It returns when each request
// began. The nth request gets the nth answer, and later ones the last.
func reads(t *testing.T, count int, answers ...Answer) (times []time.Duration, hasGivenUp bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		started := time.Now()
		agent := Agent{
			Random: rand.New(rand.NewPCG(1, 0)),
			Get: func(context.Context) Answer {
				times = append(times, time.Since(started))
				if len(times) == count {
					cancel()
				}
				return answers[min(len(times), len(answers))-1]
			},
			Answered: func(time.Time, Answer) {},
		}
		hasGivenUp = !agent.Run(ctx)
		cancel()
	})
	return times, hasGivenUp
}

func TestAnAgentReadsAgainTowardsTheEndOfALease(t *testing.T) {
	times, _ := reads(t, 50, Answer{Status: http.StatusOK, Lease: 1000 * time.Second})
	for i := range len(times) - 1 {
		wait := times[i+1] - times[i]
		assert.GreaterOrEqual(t, wait, 850*time.Second)
		assert.LessOrEqual(t, wait, 950*time.Second)
	}
}

func TestAnAgentReadsAgainASecondAfterATTL(t *testing.T) {
	times, _ := reads(t, 3, Answer{Status: http.StatusOK, TTL: 60 * time.Second})
	assert.Equal(t, []time.Duration{0, 61 * time.Second, 122 * time.Second}, times)
}

// The times are those that Vault Agent 1.19.5 has, see docs/agent.md.
func TestAnAgentRepeatsAFailingReadAndGivesUp(t *testing.T) {
	times, hasGivenUp := reads(t, 1000, Answer{Status: http.StatusServiceUnavailable})
	assert.True(t, hasGivenUp)
	assert.Len(t, times, 3*13, "the client sends each of 13 reads three times")
	pauses := []time.Duration{
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
		16 * time.Second, 32 * time.Second, time.Minute, time.Minute, time.Minute, time.Minute,
	}
	for i, pause := range pauses {
		first, second, third, next := times[3*i], times[3*i+1], times[3*i+2], times[3*i+3]
		assert.GreaterOrEqual(t, second-first, time.Second)
		assert.LessOrEqual(t, second-first, 1500*time.Millisecond)
		assert.GreaterOrEqual(t, third-second, 2*time.Second)
		assert.LessOrEqual(t, third-second, 3*time.Second)
		assert.Equal(t, pause, next-third)
	}
}

func TestAnAgentDoesNotRepeatARequestThatIsWrong(t *testing.T) {
	times, _ := reads(t, 2, Answer{Status: http.StatusBadRequest})
	assert.Equal(t, []time.Duration{0, 250 * time.Millisecond}, times)
}

func TestTheFiguresOfAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		expiry := start.Add(time.Minute)
		at := func(seconds float64) {
			time.Sleep(time.Until(expiry.Add(time.Duration(seconds * float64(time.Second)))))
		}
		record := NewRecord(4)
		fail := func(reader int, after time.Duration) {
			record.Add(reader, time.Now().Add(-after), Answer{Status: http.StatusServiceUnavailable})
		}
		serve := func(reader int) {
			record.Add(reader, time.Now(), Answer{Status: http.StatusOK, Expiry: expiry.Add(time.Hour)})
		}
		fail(0, 0) // long before
		for reader := range 4 {
			record.Add(reader, start, Answer{Status: http.StatusOK, Expiry: expiry})
		}
		served := make(chan time.Time, 1)
		go func() {
			record.Await(t.Context(), expiry)
			served <- time.Now()
		}()
		at(0)
		serve(0)
		fail(1, 3*time.Second) // hastily: the reader has waited since the begin
		at(1)
		serve(1)
		fail(1, 0) // it has a token
		fail(2, 0)
		at(11)
		fail(2, Patience) // after as long as the reader could wait
		serve(2)
		at(15)
		serve(3)
		assert.Equal(t, expiry.Add(15*time.Second), <-served)
		record.Await(t.Context(), expiry) // returns at once

		s := Storm{
			Readers: record, Expiry: expiry, Begin: expiry.Add(-time.Second), Least: 2 * time.Second,
			Before: vendorsim.Traffic{Accepted: 10, Throttled: 5},
			At:     vendorsim.Traffic{Idle: time.Minute},
			After:  vendorsim.Traffic{Accepted: 14, Throttled: 6, Idle: time.Minute + 14*time.Second},
		}
		result := s.Result()
		assert.Equal(t, Result{
			Readers: 4, Least: 2, Median: 2, P90: 16, P99: 16, Last: 16, Accepted: 4, Throttled: 1, Idle: 14, Failed: 3, Hasty: 2,
		}, result)
		assert.InDelta(t, 0.2, result.ThrottledPart(), 0)
		assert.InDelta(t, 8, result.Ratio(), 0)
		assert.Contains(t, result.String(), "4 readers (0 unserved): median 2.0 s, p90 16.0 s, p99 16.0 s, last 16.0 s (least 2.0 s: 8.00)")

		s.Least = time.Minute // nobody could wait for that
		assert.Zero(t, s.Result().Hasty)
		s.Expiry = expiry.Add(time.Hour)
		assert.Equal(t, 4, s.Result().Unserved)
	})
}
