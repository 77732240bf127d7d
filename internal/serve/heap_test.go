package serve

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAHeapGrowsToTheMinimumAndALargeOneAsByDefault(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		live, roots uint64
		percent     int
	}{
		{mib, 0, 400}, {3 * mib, 0, 400}, {4 * mib, 0, 300}, {4 * mib, 2 * mib, 200}, {7 * mib, 0, 128},
		{8 * mib, 0, 100}, {8 * mib, mib, 100}, {16 * mib, 0, 100}, {400 * mib, 0, 100},
	} {
		assert.Equal(t, c.percent, percentFor(c.live, c.roots), "%d MiB and %d MiB of roots", c.live/mib, c.roots/mib)
	}
}

// The setting is the process's, so each case runs in a process of its own.
func TestTheProcessCollectsWhenTheHeapReachesTheMinimum(t *testing.T) {
	const inner = "TEST_HEAP_OF_MIB"
	if size := os.Getenv(inner); size != "" {
		keepMinHeap()
		var live [][]byte
		if size == "40" {
			for range 40 {
				live = append(live, make([]byte, 1<<20))
			}
		}
		goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}, {Name: "/gc/gogc:percent"}}
		isAsExpected := func() bool {
			runtime.GC()
			metrics.Read(goal)
			bytes, percent := goal[0].Value.Uint64(), goal[1].Value.Uint64()
			switch {
			case os.Getenv("GOGC") != "":
				return percent == 50
			case size == "40":
				return percent == defaultPercent
			}
			return percent > defaultPercent && bytes > minHeap*3/4 && bytes < minHeap*3/2
		}
		// The setting follows a collection soon after it, so wait for that.
		for range 100 {
			if isAsExpected() {
				runtime.KeepAlive(live)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s MiB: goal %d bytes, %d %%", size, goal[0].Value.Uint64(), goal[1].Value.Uint64())
	}
	for _, environ := range []string{inner + "=1", inner + "=40", inner + "=1 GOGC=50"} {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		again.Env = append(os.Environ(), strings.Fields(environ)...)
		output, err := again.CombinedOutput()
		require.NoError(t, err, "%s\n%s", environ, output)
	}
}
