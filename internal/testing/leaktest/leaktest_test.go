package leaktest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestAGoroutineThatIsLeftBehindIsFound(t *testing.T) {
	before := goleak.IgnoreCurrent() // the goroutines of this test binary
	find := func(options ...goleak.Option) error { return goleak.Find(append(options, before)...) }
	end := make(chan struct{})
	go func() { <-end }()
	require.ErrorContains(t, await(find, 0), "leaktest.TestAGoroutineThatIsLeftBehindIsFound")

	close(end)
	assert.NoError(t, await(find, time.Minute), "it has ended, or is about to")
}
