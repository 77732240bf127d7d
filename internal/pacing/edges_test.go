package pacing

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Two clients, each with a quota of its own, take turns. When the first has used its quota up, the others must not wait.
func TestQuotasOfClientsThatTakeTurnsAreNotThatOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := New(nil), time.Now()
		for left := 6; left >= 0; left-- {
			for _, name := range []string{"a", "b"} {
				require.NoError(t, p.send(t.Context(), name, Awaited, Result{Outcome: Accepted, Quota: Quota{IsStated: true, Remaining: left, Reset: 15 * time.Second}}))
			}
		}
		assert.Zero(t, time.Since(began), "the quota of a client is taken for the host's")
	})
}

// As provider/exchange reads stale metadata with a context of stalePatience, 2 s: in real time its request is never sent.
func TestARequestWithLittleTimeIsSentToAnIdleHost(t *testing.T) {
	p := New(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.NoError(t, p.send(ctx, "a", Awaited, Result{Outcome: Accepted}))
}

// Two broken names of a quiet host with a long Retry-After, while others are accepted each few seconds.
func TestTwoCredentialsThatAreTurnedAwayDoNotPauseAQuietHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		throttled := Result{Outcome: Throttled, RetryAfter: time.Hour}
		require.NoError(t, p.send(t.Context(), "broken1", Awaited, throttled))
		for n := range 5 {
			time.Sleep(2 * time.Second)
			require.NoError(t, p.send(t.Context(), fmt.Sprint("healthy", n), Awaited, Result{Outcome: Accepted}))
		}
		time.Sleep(2 * time.Second)
		require.NoError(t, p.send(t.Context(), "broken2", Awaited, throttled))
		began := time.Now()
		require.NoError(t, p.send(t.Context(), "healthy", Awaited, Result{Outcome: Accepted}))
		assert.Less(t, time.Since(began), 2*time.Second)
	})
}

// The probe after a pause hangs, and the host accepts other requests: the queue must not wait for the probe.
func TestAProbeThatHangsHoldsNobodyAfterThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for n := range 10 {
			require.NoError(t, p.send(t.Context(), fmt.Sprint("n", n), Awaited, Result{Outcome: Throttled, RetryAfter: time.Second}))
		}
		probe, err := p.Wait(With(t.Context(), NewAdmission("hangs", Awaited)), "host", 0)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, p.send(t.Context(), "operator", Operator, Result{Outcome: Accepted}))
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, p.send(ctx, "reader", Awaited, Result{Outcome: Accepted}))
		assert.Less(t, time.Since(began), 5*time.Second)
		probe.Answered(Result{Outcome: Failed})
	})
}

// A context with less than two seconds is enough for a host that is idle.
func TestAShortContextIsEnoughForAnIdleHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		require.NoError(t, p.send(ctx, "a", Awaited, Result{Outcome: Accepted}))
	})
}

// resume forgives what was sent before its turn.
func TestAPauseForgivesNothingThatWasSentBeforeItsTurn(t *testing.T) {
	l := newLimit()
	now := time.Now()
	l.state(1, now)
	for range 10 {
		l.count(now)
	}
	before := l.wait(now)
	l.resume(now)
	assert.GreaterOrEqual(t, l.wait(now), before)
}

// A lonely turn whose outage has ended gives up the claim of a later outage.
func TestARequestOfAFormerOutageReleasesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		fail := func() {
			for n := range outageFailures {
				require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Operator, Result{Outcome: Failed}))
			}
		}
		fail()
		old, err := p.Wait(With(t.Context(), NewAdmission("old", Awaited)), "host", 0)
		require.NoError(t, err)
		require.NoError(t, p.send(t.Context(), "op", Operator, Result{Outcome: Accepted}))
		fail()
		_, err = p.Wait(With(t.Context(), NewAdmission("new", Awaited)), "host", 0)
		require.NoError(t, err)
		old.Answered(Result{Outcome: Failed}) // of the first outage
		_, err = p.Wait(With(t.Context(), NewAdmission("third", Awaited)), "host", 0)
		assert.Error(t, err, "two requests at a time")
	})
}

// Given a busy host, or a quiet one with a learned limit, a request with a Retry-After is not sent again before it.
func TestARetryAfterOfOneNameIsObeyed(t *testing.T) {
	for name, isBusy := range map[string]bool{"busy": true, "learned": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New(nil)
				if isBusy {
					for n := range 2 * busyRequests {
						_, err := p.Wait(With(t.Context(), NewAdmission(fmt.Sprint("other", n), Awaited)), "host", 0)
						require.NoError(t, err)
					}
				} else {
					stormOf(t, p, &vendor{takes: bucket(100, 10), latency: 20 * time.Millisecond}, 200)
					time.Sleep(time.Hour)
				}
				turn, err := p.Wait(With(t.Context(), NewAdmission("one", Awaited)), "host", 0)
				require.NoError(t, err)
				assert.False(t, turn.Answered(Result{Outcome: Throttled, RetryAfter: Patience + time.Second}), "it could not wait for that")
				time.Sleep(2 * windowTime) // two names in a row would stand for the host
				turn, err = p.Wait(With(t.Context(), NewAdmission("two", Awaited)), "host", 0)
				require.NoError(t, err)
				began := time.Now()
				require.True(t, turn.Answered(Result{Outcome: Throttled, RetryAfter: 10 * time.Second}))
				go func() {
					time.Sleep(time.Second)
					_, err := p.Wait(With(t.Context(), NewAdmission("three", Awaited)), "host", 0)
					assert.NoError(t, err)
					assert.Less(t, time.Since(began), 2*time.Second, "the host does not pause")
				}()
				require.NoError(t, turn.Again(t.Context()))
				assert.GreaterOrEqual(t, time.Since(began), 10*time.Second)
			})
		})
	}
}

func TestCloseEndsTheWaitForARetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for n := range 2 * busyRequests {
			_, err := p.Wait(With(t.Context(), NewAdmission(fmt.Sprint("other", n), Awaited)), "host", 0)
			require.NoError(t, err)
		}
		turn, err := p.Wait(With(t.Context(), NewAdmission("one", Awaited)), "host", 0)
		require.NoError(t, err)
		require.True(t, turn.Answered(Result{Outcome: Throttled, RetryAfter: 10 * time.Second}))
		began := time.Now()
		time.AfterFunc(time.Second, p.Close)
		require.ErrorIs(t, turn.Again(t.Context()), ErrClosed)
		assert.Equal(t, time.Second, time.Since(began))
	})
}
