package tokenbroker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// recentEnough is for how long an answer of the server is gone by. A mount that is
	// tuned has its new maximum a second later; Vault cuts leases itself, and sets its
	// mounts up anew when its part in a cluster changes.
	recentEnough = time.Second

	// recentAtLeast is for how long it is while somebody asks anew.
	recentAtLeast = 10 * time.Second
)

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
//
// It hides what else a view may be able to do: one of a plugin's is not.
type recentView struct {
	logical.SystemView
	last   atomic.Pointer[answers]
	asking sync.Mutex // one asks for all
}

// answers are those of the server at a time.
type answers struct {
	at               time.Time
	maxLeaseTTL      time.Duration
	replicationState consts.ReplicationState
	localMount       bool
}

// MaxLeaseTTL is the mount's.
func (v *recentView) MaxLeaseTTL() time.Duration { return v.recent().maxLeaseTTL }

// ReplicationState is that of the server; that of a standby as long as it has never answered,
// as the framework takes one that is unknown for a node that may write.
func (v *recentView) ReplicationState() consts.ReplicationState { return v.recent().replicationState }

// LocalMount is whether the mount is not replicated.
func (v *recentView) LocalMount() bool { return v.recent().localMount }

// recent is what the server answered, asked anew if that is too long ago, or if it has yet to
// say what its part in a cluster is.
func (v *recentView) recent() *answers {
	last := v.last.Load()
	if last.within(recentEnough) {
		return last
	}
	if !v.asking.TryLock() {
		if last.within(recentAtLeast) {
			return last
		}
		v.asking.Lock()
	}
	defer v.asking.Unlock()
	if last = v.last.Load(); last.within(recentEnough) { // somebody has asked meanwhile
		return last
	}
	next, isKnown := v.ask(last)
	if isKnown {
		v.last.Store(next)
	}
	return next
}

// ask asks the server. One that does not answer seems to say zero; what it said last
// stands then. Every server knows its part in a cluster: isKnown is whether it has ever said
// so.
func (v *recentView) ask(last *answers) (next *answers, isKnown bool) {
	next = &answers{
		at:               time.Now(),
		maxLeaseTTL:      v.SystemView.MaxLeaseTTL(),
		replicationState: v.SystemView.ReplicationState(),
		localMount:       v.SystemView.LocalMount(),
	}
	isKnown = last != nil || next.replicationState != consts.ReplicationUnknown
	if last == nil {
		// Vault cuts leases itself, and takes one of no time for one of the default.
		last = &answers{maxLeaseTTL: maxDuration, replicationState: consts.ReplicationPerformanceStandby}
	}
	if next.maxLeaseTTL <= 0 {
		next.maxLeaseTTL = last.maxLeaseTTL
	}
	if next.replicationState == consts.ReplicationUnknown {
		next.replicationState = last.replicationState
	}
	return next, isKnown
}

// within is whether there are answers that are not older.
func (a *answers) within(age time.Duration) bool { return a != nil && time.Since(a.at) < age }
