package broker

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
)

// ErrPanicked means that the engine has a bug that something in storage, or a vendor's answer,
// has triggered.
var ErrPanicked = errors.New("internal error; see the server's log")

// Panicked logs what was recovered from a panic, and returns ErrPanicked. The process serves all
// mounts of the plugin, and must not end because of one. What was recovered is logged only if it
// is an error of the runtime: anything else may hold a secret.
func Panicked(logger hclog.Logger, recovered any) error {
	what := fmt.Sprintf("%T", recovered)
	if err, isRuntime := recovered.(runtime.Error); isRuntime {
		what = err.Error()
	}
	logger.Error("panic caused by a bug in the engine; please report it", "panic", what, "stack", string(debug.Stack()))
	return ErrPanicked
}

// contain limits a panic to the name that it is about. The name is unusable for rejectedBackOff,
// or until it is written or refreshed: neither is the vendor called nor the panic repeated with
// each read. It must be deferred by the holder of the name's lock, after its unlock.
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
}
