// Package sysview caches what each read asks of Vault's server. A question is a call from
// process to process and back, and costs as much as the rest of a cached read.
package sysview

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// maxAge is how long an answer counts. A new maximum of a mount takes effect a second
	// later. Vault shortens leases itself, and sets its mounts up again when its role in a
	// cluster changes.
	maxAge = time.Second

	// unlimited is the maximum lease as long as the server has not told it. Vault takes a
	// lease of no time for one of the default.
	unlimited = 10 * 365 * 24 * time.Hour
)

// A View is a system view whose answers are cached. It hides any other interface of the view
// that it is made from; a plugin's has none.
type View struct {
	logical.SystemView
	last   atomic.Pointer[answers]
	asking sync.Mutex // one caller asks for all
}

// Cache returns a View of a server.
func Cache(view logical.SystemView) *View { return &View{SystemView: view} }

// answers are the server's, at a time.
type answers struct {
	time             time.Time
	maxLeaseTTL      time.Duration
	replicationState consts.ReplicationState
	localMount       bool
}

// MaxLeaseTTL returns the longest lease of the mount.
func (v *View) MaxLeaseTTL() time.Duration { return v.answers().maxLeaseTTL }

// ReplicationState returns the role of the server. Until the server has told it, it is that of
// a standby: the framework would take an unknown role for that of a node that may write.
func (v *View) ReplicationState() consts.ReplicationState { return v.answers().replicationState }

// LocalMount reports whether the mount is not replicated.
func (v *View) LocalMount() bool { return v.answers().localMount }

// answers returns the cached answers, and asks again if they are too old. While one caller
// asks, the last answers count for the others.
func (v *View) answers() *answers {
	last := v.last.Load()
	if last.isFresh() {
		return last
	}
	if last == nil {
		v.asking.Lock()
	} else if !v.asking.TryLock() {
		return last
	}
	defer v.asking.Unlock()
	if last = v.last.Load(); last.isFresh() { // another caller has asked meanwhile
		return last
	}
	next, isKnown := v.ask(last)
	if isKnown {
		v.last.Store(next)
	}
	return next
}

// ask asks the server. A zero is no answer: the last one counts on. It returns isKnown=false as
// long as the server has not told its role, which every server knows.
func (v *View) ask(last *answers) (next *answers, isKnown bool) {
	next = &answers{
		time:             time.Now(),
		maxLeaseTTL:      v.SystemView.MaxLeaseTTL(),
		replicationState: v.SystemView.ReplicationState(),
		localMount:       v.SystemView.LocalMount(),
	}
	isKnown = last != nil || next.replicationState != consts.ReplicationUnknown
	if last == nil {
		last = &answers{maxLeaseTTL: unlimited, replicationState: consts.ReplicationPerformanceStandby}
	}
	if next.maxLeaseTTL <= 0 {
		next.maxLeaseTTL = last.maxLeaseTTL
	}
	if next.replicationState == consts.ReplicationUnknown {
		next.replicationState = last.replicationState
	}
	return next, isKnown
}

func (a *answers) isFresh() bool { return a != nil && time.Since(a.time) < maxAge }
