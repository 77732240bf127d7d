package pacing

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestADownHostThatNobodyAsksIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for n := range 10 {
			require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Operator, Result{Outcome: Failed}))
		}
		assert.True(t, p.Status("host").IsDown())
		time.Sleep(outageMemory + time.Second)
		assert.False(t, p.Status("host").IsDown())
		assert.True(t, p.hosts["host"].isForgettable(time.Now()))
	})
}

func TestALearnedLimitIsForgottenAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		stormOf(t, p, &vendor{takes: bucket(10, 10), latency: 20 * time.Millisecond}, 100)
		require.NotZero(t, p.Status("host").RequestsPerSecond)
		time.Sleep(forgetTime + time.Minute)
		assert.Zero(t, p.Status("host").RequestsPerSecond)
		assert.True(t, p.hosts["host"].isForgettable(time.Now()))
	})
}

func TestTheQuotasOfManyClientsAreNotThatOfTheHost(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			p, began := New(nil), time.Now()
			end := began.Add(time.Hour)
			r := rand.New(rand.NewPCG(seed, 1))
			left := map[int]int{}
			for n := range 100 {
				left[n] = 1 + r.IntN(20)
			}
			refused := 0
			for range 300 {
				n := r.IntN(100)
				if left[n] == 0 {
					continue
				}
				left[n]--
				err := p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Accepted, Quota: Quota{IsStated: true, Remaining: left[n], Reset: time.Until(end).Round(time.Second)}})
				var e *NotSentError
				if errors.As(err, &e) {
					refused++
				}
				time.Sleep(100 * time.Millisecond)
			}
			assert.Zero(t, refused, "seed %d", seed)
		})
	}
}

func TestThreeCredentialsThatAreTurnedAwayDoNotStandForABusyHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for n := range 1000 {
			require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Accepted}))
			if n%300 == 299 {
				require.NoError(t, p.send(t.Context(), fmt.Sprint("of one tenant", n), Awaited, Result{Outcome: Throttled, RetryAfter: time.Hour}))
			}
			time.Sleep(time.Millisecond)
		}
		assert.Zero(t, p.Status("host").RequestsPerSecond)
		assert.True(t, p.Status("host").PauseUntil.IsZero())
	})
}
