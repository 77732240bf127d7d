package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLockHasOneHolderAndItsWaitersCanGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		l := newLocks(closed)
		unlock, err := l.lock(t.Context(), "a")
		require.NoError(t, err)
		other, err := l.lock(t.Context(), "b")
		require.NoError(t, err, "another name is not locked")
		other()

		late, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = l.lock(late, "a")
		require.ErrorIs(t, err, ErrBusy)
		gone, leave := context.WithCancel(t.Context())
		leave()
		_, err = l.lock(gone, "a")
		require.ErrorIs(t, err, context.Canceled)
		_, isLocked := l.tryLock("a")
		assert.False(t, isLocked)

		unlock()
		unlock, isLocked = l.tryLock("a")
		require.True(t, isLocked)
		waiting := make(chan error)
		go func() {
			_, err := l.lock(t.Context(), "a")
			waiting <- err
		}()
		synctest.Wait()
		close(closed)
		require.ErrorIs(t, <-waiting, ErrClosed)
		unlock()
		unlock, err = l.lockClosed(t.Context(), "a")
		require.NoError(t, err)
		unlock()
		synctest.Wait()
		assert.Empty(t, l.names, "unused locks must be removed")
	})
}

// Dedicated exchanges follow each other without a pause. Any other operation waits for at most two
// of them.
func TestGuarantee11DedicatedExchangesDelayOthersByAtMostTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks(nil)
		for range maxDedicated {
			go func() {
				unlock, err := l.lockDedicated(t.Context(), "a", "mine")
				if assert.NoError(t, err) {
					time.Sleep(time.Second)
					unlock()
				}
			}()
		}
		synctest.Wait()
		_, err := l.lockDedicated(t.Context(), "a", "mine")
		require.ErrorIs(t, err, ErrTooManyWaiting)
		began := time.Now()
		unlock, err := l.lock(t.Context(), "a")
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), 2*time.Second)
		unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, l.names)
	})
}
