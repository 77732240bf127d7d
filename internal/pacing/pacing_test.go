package pacing

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// limited returns a pacer that knows that a host takes a request a second, and of which no turn is left.
func limited(t *testing.T) *Pacer {
	t.Helper()
	p := New(nil)
	p.SetStated(map[string]float64{"host": 1})
	require.NoError(t, p.send(t.Context(), "first", Awaited, Result{Outcome: Accepted}))
	return p
}

// send sends a request of a name, which ends at once.
func (p *Pacer) send(ctx context.Context, name string, priority Priority, r Result) error {
	turn, err := p.Wait(With(ctx, NewAdmission(name, priority)), "host", 0)
	if err == nil {
		turn.Answered(r)
	}
	return err
}

// order sends requests, each as soon as the one before waits, and returns the order of their turns. It
// calls then once all wait.
func order(t *testing.T, p *Pacer, then func(), requests ...*Admission) (names []string) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, a := range requests {
		all.Go(func() {
			turn, err := p.Wait(With(t.Context(), a), "host", 0)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			names = append(names, a.name)
			mu.Unlock()
			turn.Answered(Result{Outcome: Accepted})
		})
		synctest.Wait()
	}
	then()
	all.Wait()
	return names
}

func nothing() {}

func TestGuarantee16TheMostUrgentRequestIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		assert.Equal(t, []string{"operator", "reader", "ahead", "background"}, order(t, limited(t), nothing,
			NewAdmission("background", Background), NewAdmission("ahead", Ahead),
			NewAdmission("reader", Awaited), NewAdmission("operator", Operator)))
	})
}

func TestGuarantee16NamesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := func() *Admission { return NewAdmission("many requests", Awaited) }
		assert.Equal(t, []string{"many requests", "one request", "many requests", "many requests"},
			order(t, limited(t), nothing, one(), one(), one(), NewAdmission("one request", Awaited)))
	})
}

func TestGuarantee16AReaderMakesTheRequestThatItJoinsUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		joined := NewAdmission("joined", Background)
		assert.Equal(t, []string{"joined", "other"},
			order(t, limited(t), func() { joined.Raise(Awaited) }, NewAdmission("other", Ahead), joined))
	})
}

func TestARequestThatAnOperatorWaitsForIsSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, began := limited(t), NewAdmission("name", Background), time.Now()
		assert.Equal(t, []string{"name"}, order(t, p, func() { a.Raise(Operator) }, a))
		assert.Zero(t, time.Since(began))
	})
}

func TestAnOperationThatHasBegunGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, began := limited(t), NewAdmission("name", Background), time.Now()
		ctx := With(t.Context(), a)
		first, err := p.Wait(ctx, "host", 0)
		require.NoError(t, err)
		first.Answered(Result{Outcome: Accepted})
		assert.Equal(t, time.Second, time.Since(began))
		p.Close()
		for range 3 {
			next, err := p.Wait(ctx, "host", 0)
			require.NoError(t, err)
			next.Answered(Result{Outcome: Accepted})
		}
		assert.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, p.send(t.Context(), "other", Awaited, Result{}), ErrClosed)
	})
}

func TestARequestWhoseTurnIsTooLateIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t)
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		var all sync.WaitGroup
		for n := range 30 {
			all.Go(func() {
				assert.NoError(t, p.send(t.Context(), fmt.Sprint(n), Awaited, Result{Outcome: Accepted}))
			})
		}
		synctest.Wait()
		assert.Equal(t, 30, p.Status("host").Waiting)
		var notSent *NotSentError
		require.ErrorAs(t, p.send(t.Context(), "late", Background, Result{}), &notSent)
		assert.WithinDuration(t, began.Add(30*time.Second+500*time.Millisecond), notSent.Next, time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 29*time.Second)
		defer cancel()
		require.ErrorAs(t, p.send(ctx, "short of time", Awaited, Result{}), &notSent)
		assert.Zero(t, time.Since(began))
		all.Wait()
		assert.InDelta(t, 29.5, time.Since(began).Seconds(), 0.001)
	})
}

func TestACanceledRequestLosesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := limited(t), time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		require.ErrorIs(t, p.send(ctx, "name", Awaited, Result{}), context.Canceled)
		assert.Zero(t, p.Status("host").Waiting)
		require.NoError(t, p.send(t.Context(), "other", Awaited, Result{Outcome: Accepted}))
		assert.Equal(t, time.Second, time.Since(began))
	})
}

func TestCloseEndsTheWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := limited(t), time.Now()
		go func() {
			synctest.Wait()
			p.Close()
		}()
		require.ErrorIs(t, p.send(t.Context(), "name", Awaited, Result{}), ErrClosed)
		assert.Zero(t, time.Since(began))
	})
}

func TestOneCredentialThatIsTurnedAwayDoesNotSlowOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := New(nil), time.Now()
		for range 100 {
			for n := range 5 {
				require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Accepted}))
			}
			require.NoError(t, p.send(t.Context(), "over its quota", Awaited, Result{Outcome: Throttled, RetryAfter: time.Hour}))
		}
		assert.Zero(t, p.Status("host").RequestsPerSecond)
		assert.True(t, p.Status("host").PauseUntil.IsZero())
		assert.Zero(t, time.Since(began))
	})
}

func TestGuarantee16RetryAfterCountsForTheHost(t *testing.T) {
	for stated, paused := range map[time.Duration]time.Duration{
		5 * time.Second: 5 * time.Second,
		time.Hour:       maxPause, // then one request probes
	} {
		synctest.Test(t, func(t *testing.T) {
			p, began := New(nil), time.Now()
			turnedAway := Result{Outcome: Throttled, RetryAfter: stated}
			require.NoError(t, p.send(t.Context(), "one", Awaited, turnedAway))
			require.NoError(t, p.send(t.Context(), "two", Awaited, turnedAway))
			assert.Equal(t, began.Add(paused), p.Status("host").PauseUntil)
			assert.Zero(t, p.Status("host").RequestsPerSecond, "two requests say little about a limit")
			if stated > Patience {
				var notSent *NotSentError
				require.ErrorAs(t, p.send(t.Context(), "three", Awaited, Result{}), &notSent)
				assert.Equal(t, began.Add(stated), notSent.Next)
				time.Sleep(paused)
			}
			require.NoError(t, p.send(t.Context(), "three", Awaited, Result{Outcome: Accepted}))
			assert.Equal(t, paused, time.Since(began))
			assert.True(t, p.Status("host").PauseUntil.IsZero())
		})
	}
}

func TestARequestThatCannotWaitForRetryAfterFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := limited(t), time.Now()
		failed := make(chan error)
		go func() { failed <- p.send(t.Context(), "waits", Awaited, Result{}) }()
		synctest.Wait()
		for _, name := range []string{"one", "two", "three"} { // of operators, so that they are sent at once
			require.NoError(t, p.send(t.Context(), name, Operator, Result{Outcome: Throttled, RetryAfter: time.Hour}))
		}
		var notSent *NotSentError
		require.ErrorAs(t, <-failed, &notSent)
		assert.Equal(t, began.Add(time.Hour), notSent.Next)
		assert.Zero(t, time.Since(began))
	})
}

func TestARequestIsRepeatedABoundedNumberOfTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		p.SetStated(map[string]float64{"host": 100})
		sent := map[string]int{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for n := range 1000 {
			all.Go(func() {
				name := fmt.Sprint("name", n)
				ctx := With(t.Context(), NewAdmission(name, Awaited))
				turn, err := p.Wait(ctx, "host", 0)
				for err == nil {
					mu.Lock()
					sent[name]++
					mu.Unlock()
					r := Result{Outcome: Accepted}
					if n == 0 {
						r.Outcome = Throttled
					}
					time.Sleep(100 * time.Millisecond)
					if !turn.Answered(r) {
						break
					}
					err = turn.Again(ctx)
				}
			})
		}
		all.Wait()
		assert.Equal(t, 1+maxRepeats, sent["name0"], "other requests wait, so that the host may be overloaded")
		assert.Equal(t, 1, sent["name1"])
	})
}

func TestAQuotaThatIsSharedByNamesIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := New(nil), time.Now()
		end := began.Add(10 * time.Second)
		for n := range 29 {
			ctx := With(t.Context(), NewAdmission(fmt.Sprint("name", n), Awaited))
			turn, err := p.Wait(ctx, "host", 0)
			require.NoError(t, err)
			time.Sleep(20 * time.Millisecond)
			turn.Answered(Result{Outcome: Accepted, Quota: Quota{IsStated: true, Remaining: max(0, 19-n), Reset: time.Until(end).Round(time.Second)}})
			if n == 19 {
				assert.Less(t, time.Since(began), time.Second)
			}
		}
		assert.GreaterOrEqual(t, time.Since(began), 10*time.Second)
	})
}

func TestTheQuotaOfOneCredentialDoesNotSlowOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := New(nil), time.Now()
		for left := 10; left >= 0; left-- {
			own := Quota{IsStated: true, Remaining: left, Reset: time.Hour}
			require.NoError(t, p.send(t.Context(), "name0", Awaited, Result{Outcome: Accepted, Quota: own}))
		}
		for round := range 10 {
			for n := range 5 {
				own := Quota{IsStated: true, Remaining: 5 - round/2 - n%2, Reset: time.Hour}
				require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Accepted, Quota: own}))
			}
		}
		assert.Zero(t, time.Since(began))
	})
}

func TestAStatedLimitIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		p.SetStated(map[string]float64{"host": 50})
		v := &vendor{takes: bucket(50, 3), latency: 20 * time.Millisecond}
		for range 3 {
			s := stormOf(t, p, v, 500)
			assert.Zero(t, s.throttled)
			assert.InDelta(t, 10, s.last().Seconds(), 0.5)
			time.Sleep(time.Hour)
		}
		assert.True(t, p.Status("host").IsStated)

		v.takes = bucket(20, 3)
		assert.LessOrEqual(t, stormOf(t, p, v, 200).last(), 15*time.Second, "less is learned")
		assert.False(t, p.Status("host").IsStated)
		v.takes = bucket(51, 5)
		before := v.throttled
		stormOf(t, p, v, 900)
		assert.Equal(t, before, v.throttled)
		assert.InDelta(t, 50, p.Status("host").RequestsPerSecond, 0, "it grows to what is stated, and no further")
		time.Sleep(25 * time.Hour)
		require.NoError(t, p.send(t.Context(), "name", Awaited, Result{Outcome: Accepted})) // what was learned is forgotten
		p.SetStated(nil)
		assert.Zero(t, p.Status("host").RequestsPerSecond)
	})
}

func TestTheLimitOfADefinitionCountsUnlessTheOperatorStatesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		turn, err := p.Wait(t.Context(), "host", 5)
		require.NoError(t, err)
		turn.Answered(Result{Outcome: Accepted})
		assert.InDelta(t, 5, p.Status("host").RequestsPerSecond, 0)
		require.NoError(t, p.send(t.Context(), "of another definition", Awaited, Result{Outcome: Accepted}))
		assert.InDelta(t, 5, p.Status("host").RequestsPerSecond, 0)
		p.SetStated(map[string]float64{"host": 7})
		assert.InDelta(t, 7, p.Status("host").RequestsPerSecond, 0)
		p.SetStated(nil)
		assert.InDelta(t, 5, p.Status("host").RequestsPerSecond, 0)
	})
}

func TestHostsWithoutTrafficAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for n := range 10 * minPrune {
			turn, err := p.Wait(t.Context(), fmt.Sprint("host", n), 0)
			require.NoError(t, err)
			turn.Answered(Result{Outcome: Accepted})
			time.Sleep(time.Minute)
		}
		assert.LessOrEqual(t, len(p.hosts), minPrune)
	})
}

func TestOnlyHostsThatNeedAttentionAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t)
		turn, err := p.Wait(t.Context(), "another", 0)
		require.NoError(t, err)
		turn.Answered(Result{Outcome: Accepted})
		require.Len(t, p.Limited(), 1)
		assert.Equal(t, "host", p.Limited()[0].Host)
	})
}
