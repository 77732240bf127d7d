package serve

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// minHeap is the size to which the heap may grow before Go collects garbage. A mount with few
	// credentials uses 2 MiB, and Go would collect each time that 2 MiB of garbage are added: many
	// times a second under load, which costs more than a tenth of a cached read. A heap of more than
	// half of minHeap grows as by default, so that the memory for many credentials stays the same.
	minHeap = 16 << 20

	// defaultPercent is Go's default for GOGC, and maxPercent the one with which Go's own minimum is
	// minHeap.
	defaultPercent = 100
	maxPercent     = defaultPercent * minHeap / (4 << 20)
)

// keepMinHeap makes Go collect garbage only when the heap has reached minHeap. It does nothing if
// the environment sets GOGC or GOMEMLIMIT.
func keepMinHeap() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	percent := defaultPercent
	afterEachCollection(func() {
		// A change stops the program for a moment, so ignore small ones.
		next := percentFor(lastCollection())
		if percent*4/5 < next && next < percent*5/4 && next != defaultPercent || next == percent {
			return
		}
		percent = next
		debug.SetGCPercent(percent)
	})
}

// percentFor returns the value of GOGC with which a heap of live bytes grows to minHeap, and at
// least the default. Go counts the roots, which are stacks and globals, in what it takes the
// percentage of. The same percentage of 4 MiB is the minimum of Go itself, so that maxPercent is
// enough for any small heap.
func percentFor(live, roots uint64) int {
	if live >= minHeap {
		return defaultPercent
	}
	return max(defaultPercent, int(min(maxPercent, (minHeap-live)*100/max(live+roots, 1))))
}

// lastCollection returns the number of bytes in use, and that of the roots, which the last
// collection has found.
func lastCollection() (live, roots uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64() + samples[2].Value.Uint64()
}

// A mark is an object that nothing refers to, so that the next collection frees it. It has a
// pointer, as Go allocates small objects without one together.
type mark struct{ _ *byte }

// afterEachCollection calls f after each collection, for the rest of the process.
func afterEachCollection(f func()) {
	runtime.AddCleanup(new(mark), func(f func()) {
		f()
		afterEachCollection(f)
	}, f)
}
