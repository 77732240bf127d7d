package broker

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
)

// ErrPanicked means that the engine has a fault of its own, which something that is stored, or
// that a vendor answered, has brought to light.
var ErrPanicked = errors.New("the engine failed; the server's log has the reason")

// Panicked logs what a request or a renewal has recovered from, and returns its error. The
// process serves every mount of the plugin, and must not end for one of them. What was
// recovered is logged if it is the runtime's, as a secret may be in everything else.
func Panicked(logger hclog.Logger, recovered any) error {
	what := fmt.Sprintf("%T", recovered)
	if err, isRuntime := recovered.(runtime.Error); isRuntime {
		what = err.Error()
	}
	logger.Error("a fault of the engine: please report it", "panic", what, "stack", string(debug.Stack()))
	return ErrPanicked
}

// contain has a panic cost only the name that it is about, which is unusable for rejectedPause,
// or until it is written or refreshed: the vendor is not called, nor is the panic repeated,
// with each read. It is to be deferred by whoever has the exclusive right to the name, so that
// it comes before who is next.
func (b *Broker) contain(e *entry, err *error) {
	recovered := recover()
	if recovered == nil {
		return
	}
	*err = Panicked(b.source.Logger().With("name", e.name), recovered)
	e.reset()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.absent, e.memory.unusable = true, true
	e.memory.panicked = time.Now().Add(rejectedPause)
}

// forgive ends the pause after a panic.
func (e *entry) forgive() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.panicked = time.Time{}
}

// mayRetry is whether there was a panic, and the pause after it is over.
func (m memory) mayRetry(now time.Time) bool {
	return !m.panicked.IsZero() && !now.Before(m.panicked)
}
