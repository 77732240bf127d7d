package events

import (
	"fmt"
	"iter"
	"maps"
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

func expiring(names ...string) iter.Seq2[string, broker.Expiry] {
	all := map[string]broker.Expiry{}
	for _, name := range names {
		all[name] = broker.Expiry{Vendor: "kensho", Unused: time.Now().Add(time.Hour)}
	}
	return maps.All(all)
}

func TestAnExpiryThatTheQueueDroppedIsReportedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, sent, full := newQueue()
		var names []string
		for i := range maxQueued + 500 {
			names = append(names, fmt.Sprintf("c%d", i))
		}
		q.Expiring(expiring(names...), time.Now())
		assert.EqualValues(t, 1, full.Load(), "logged once")
		time.Sleep(time.Hour)
		q.Expiring(expiring(names...), time.Now())
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names), sent.Load())
		q.Expiring(expiring(), time.Now()) // they have yet to be loaded again
		q.Expiring(expiring(names...), time.Now())
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names), sent.Load())
		assert.EqualValues(t, 1, full.Load())

		q.Expiring(maps.All(map[string]broker.Expiry{"c1": {}}), time.Now()) // deleted
		q.Expiring(expiring("c1"), time.Now())
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
