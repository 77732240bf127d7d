package pacing

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGuarantee16AHostThatIsDownGetsOneRequestAtATime(t *testing.T) {
	for takes, expected := range map[time.Duration]int{0: 9, 30 * time.Second: 2} { // each, until it fails
		synctest.Test(t, func(t *testing.T) {
			p := New(nil)
			for n := range outageFailures {
				require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Failed}))
			}
			began := time.Now()
			var sent, atOnce atomic.Int32
			var all sync.WaitGroup
			for time.Since(began) < time.Minute {
				for n := range 100 {
					all.Go(func() {
						turn, err := p.Wait(With(t.Context(), NewAdmission(fmt.Sprint("name", n), Awaited)), "host", 0)
						if err == nil {
							sent.Add(1)
							assert.EqualValues(t, 1, atOnce.Add(1))
							time.Sleep(takes)
							atOnce.Add(-1)
							turn.Answered(Result{Outcome: Failed})
							return
						}
						var down *DownError
						if assert.ErrorAs(t, err, &down) {
							assert.Equal(t, began, down.Since)
						}
					})
				}
				time.Sleep(100 * time.Millisecond)
			}
			all.Wait()
			assert.InDelta(t, expected, sent.Load(), 1, "the time between two requests doubles")
			assert.True(t, p.Status("host").IsDown())

			require.NoError(t, p.send(t.Context(), "refresh", Operator, Result{Outcome: Accepted}), "an operator's request is sent")
			assert.False(t, p.Status("host").IsDown())
			require.NoError(t, p.send(t.Context(), "name", Awaited, Result{Outcome: Accepted}))
		})
	}
}

func TestAReaderWaitsForTheNextRequestToAHostThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := New(nil), time.Now()
		for n := range outageFailures {
			require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Failed}))
		}
		require.NoError(t, p.send(t.Context(), "healthy", Awaited, Result{Outcome: Accepted}))
		assert.Equal(t, minProbe, time.Since(began))
	})
}

func TestRequestsThatWaitAreRefusedWhenTheHostIsFoundToBeDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := limited(t), time.Now()
		failed := make(chan error)
		go func() { failed <- p.send(t.Context(), "waits", Awaited, Result{}) }()
		synctest.Wait()
		for n := range outageFailures { // of operators, so that they are sent at once
			require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Operator, Result{Outcome: Failed}))
		}
		var down *DownError
		require.ErrorAs(t, <-failed, &down)
		assert.Equal(t, began.Add(minProbe), down.Next)
		assert.Zero(t, time.Since(began))
	})
}

func TestTwoCredentialsThatFailDoNotStandForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for range 100 {
			require.NoError(t, p.send(t.Context(), "one", Awaited, Result{Outcome: Failed}))
			require.NoError(t, p.send(t.Context(), "two", Awaited, Result{Outcome: Failed}))
		}
		assert.False(t, p.Status("host").IsDown())
	})
}

func TestFailuresLongAgoDoNotStandForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for n := range 20 {
			require.NoError(t, p.send(t.Context(), fmt.Sprint("name", n), Awaited, Result{Outcome: Failed}))
			time.Sleep(outageTime + time.Second)
		}
		assert.False(t, p.Status("host").IsDown())
	})
}
