package broker

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
)

// ErrPanicked means that stored data or a vendor's answer has triggered a bug in the engine.
var ErrPanicked = errors.New("internal error; see the server's log")

// Panicked logs what was recovered from a panic, and returns ErrPanicked. The process serves all
// mounts of the plugin, so a panic must not end it. Panicked logs the recovered value only if it is
// a runtime error, since any other value may hold a secret.
func Panicked(logger hclog.Logger, recovered any) error {
	what := fmt.Sprintf("%T", recovered)
	if err, isRuntime := recovered.(runtime.Error); isRuntime {
		what = err.Error()
	}
	logger.Error("panic caused by a bug in the engine; please report it", "panic", what, "stack", string(debug.Stack()))
	return ErrPanicked
}

// contain limits a panic to one name. The name is then unusable for rejectedBackOff, or until it is
// written or refreshed, so that reads repeat neither the call of the vendor nor the panic. The
// holder of the name's lock must defer contain after it defers the unlock.
func (b *Broker) contain(r *record, err *error) {
	recovered := recover()
	if recovered == nil {
		return
	}
	*err = Panicked(b.source.Logger().With("name", r.name), recovered)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resetLocked(unusable)
	r.current.panicPause = time.Now().Add(rejectedBackOff)
}

// endPanicPause ends the pause after a panic.
func (r *record) endPanicPause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.panicPause = time.Time{}
	r.touchLocked()
}
