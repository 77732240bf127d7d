package events

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// newQueue returns a Queue whose server takes an event each second.
func newQueue() (q *Queue, sent, full *atomic.Int64) {
	sent, full = new(atomic.Int64), new(atomic.Int64)
	send := func(Event) { time.Sleep(time.Second); sent.Add(1) }
	return NewQueue(send, func() { full.Add(1) }), sent, full
}

// expire queues events of credentials that expire soon. It reports whether all are done.
func expire(q *Queue, names ...string) bool {
	isDone := true
	for _, name := range names {
		isDone = q.Expiring(name, broker.Expiry{Vendor: "kensho", Unused: time.Now().Add(time.Hour)}, time.Now()) && isDone
	}
	return isDone
}

func TestAnExpiryThatTheQueueDroppedIsReportedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, sent, full := newQueue()
		var names []string
		for i := range maxQueued + 500 {
			names = append(names, fmt.Sprintf("c%d", i))
		}
		assert.False(t, expire(q, names...))
		assert.EqualValues(t, 1, full.Load(), "logged once")
		time.Sleep(time.Hour)
		assert.True(t, expire(q, names...))
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names), sent.Load())
		assert.True(t, expire(q, names...))
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names), sent.Load())
		assert.EqualValues(t, 1, full.Load())

		assert.True(t, q.Expiring("c1", broker.Expiry{}, time.Now())) // deleted
		assert.True(t, expire(q, "c1"))
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names)+1, sent.Load())
	})
}

func TestAClosedQueueDropsWaitingEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, sent, full := newQueue()
		for range 10 {
			assert.True(t, q.add(Event{}))
		}
		time.Sleep(2500 * time.Millisecond)
		q.Close()
		assert.False(t, q.add(Event{}))
		time.Sleep(time.Hour) // synctest checks that no goroutine remains
		assert.EqualValues(t, 3, sent.Load())
		assert.Zero(t, full.Load())
	})
}
