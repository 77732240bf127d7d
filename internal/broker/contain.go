package broker

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

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

// contain has a panic cost only the name that it is about, which is unusable until it is
// written or somebody asks for it: the background work must not panic again each minute.
// It is to be deferred.
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
}
