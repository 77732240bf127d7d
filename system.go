package tokenbroker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// recentEnough is for how long an answer of the server is gone by. What is asked
// changes when an operator tunes a mount or a cluster changes its leader, and neither
// counts within the second anyway.
const recentEnough = time.Second

// Setup has the framework, too, see the server by a view that need not ask it on each
// read.
func (b *backend) Setup(ctx context.Context, config *logical.BackendConfig) error {
	own := *config
	if config.System != nil {
		own.System = &recentView{SystemView: config.System}
	}
	return b.Backend.Setup(ctx, &own)
}

// A recentView remembers what each read asks the server. Every question is a call from
// process to process and back, and costs as much as the rest of a cached read.
type recentView struct {
	logical.SystemView
	maxLeaseTTL      recent[time.Duration]
	replicationState recent[consts.ReplicationState]
	localMount       recent[bool]
}

// MaxLeaseTTL is the mount's. It is longer than any lease if the server does not answer,
// which cuts leases itself, and takes one of no time for one of the default.
func (v *recentView) MaxLeaseTTL() time.Duration {
	if ttl := v.maxLeaseTTL.get(v.SystemView.MaxLeaseTTL); ttl > 0 {
		return ttl
	}
	return maxDuration
}

// ReplicationState is that of the server; unknown if it does not answer.
func (v *recentView) ReplicationState() consts.ReplicationState {
	return v.replicationState.get(v.SystemView.ReplicationState)
}

// LocalMount is whether the mount is not replicated.
func (v *recentView) LocalMount() bool { return v.localMount.get(v.SystemView.LocalMount) }

// recent is the latest answer to a question.
type recent[T any] struct{ answer atomic.Pointer[answer[T]] }

type answer[T any] struct {
	value T
	at    time.Time
}

// get is the answer, asked for anew if it is too old.
func (r *recent[T]) get(ask func() T) T {
	if last := r.answer.Load(); last != nil && time.Since(last.at) < recentEnough {
		return last.value
	}
	next := &answer[T]{at: time.Now()}
	next.value = ask()
	r.answer.Store(next)
	return next.value
}
