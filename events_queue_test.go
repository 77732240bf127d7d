package tokenbroker

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

// newQueue is one whose server takes an event each second.
func newQueue() (es *events, sent, full *atomic.Int64) {
	sent, full = new(atomic.Int64), new(atomic.Int64)
	return &events{
		send: func(event) { time.Sleep(time.Second); sent.Add(1) },
		full: func() { full.Add(1) },
		told: map[expiry]bool{},
	}, sent, full
}

func dying(names ...string) iter.Seq2[string, broker.Expiry] {
	all := map[string]broker.Expiry{}
	for _, name := range names {
		all[name] = broker.Expiry{Provider: "kensho", Unused: time.Now().Add(time.Hour)}
	}
	return maps.All(all)
}

func TestADeathThatTheQueueDidNotTakeIsToldOfLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es, sent, full := newQueue()
		var names []string
		for i := range mostUnsent + 500 {
			names = append(names, fmt.Sprintf("c%d", i))
		}
		es.expiring(dying(names...), time.Now())
		assert.EqualValues(t, 1, full.Load(), "which is said once")
		time.Sleep(time.Hour)
		es.expiring(dying(names...), time.Now())
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names), sent.Load())
		es.expiring(dying(), time.Now()) // they have yet to be loaded again
		es.expiring(dying(names...), time.Now())
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names), sent.Load())
		assert.EqualValues(t, 1, full.Load())

		es.expiring(maps.All(map[string]broker.Expiry{"c1": {}}), time.Now()) // deleted
		es.expiring(dying("c1"), time.Now())
		time.Sleep(time.Hour)
		assert.EqualValues(t, len(names)+1, sent.Load())
	})
}

func TestAClosedQueueDropsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es, sent, full := newQueue()
		for range 10 {
			assert.True(t, es.add(event{}))
		}
		time.Sleep(2500 * time.Millisecond)
		es.close()
		assert.False(t, es.add(event{}))
		time.Sleep(time.Hour) // and synctest sees that nobody is left
		assert.EqualValues(t, 3, sent.Load())
		assert.Zero(t, full.Load())
	})
}
