// Package sysview caches the values of the system view that each read needs. Without it, each call
// is a round trip from the plugin to Vault's process, which costs as much as the rest of a cached
// read. It also requests identity tokens of the server, which are new each time.
package sysview

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// maxAge is how long values are cached, and so how late a new maximum lease TTL of the mount
	// takes effect. That is harmless: Vault itself shortens leases, and it sets up its mounts
	// again when the role of a node changes.
	maxAge = time.Second

	// unlimited is the maximum lease TTL until the server returns one. A zero would not do, as
	// Vault replaces a zero TTL by the default.
	unlimited = 10 * 365 * 24 * time.Hour
)

// A View is a system view that caches its values for a second. It is safe for concurrent use. It
// does not expose other interfaces that the underlying view may implement; a plugin's view has none.
type View struct {
	logical.SystemView
	last     atomic.Pointer[snapshot]
	fetching sync.Mutex // held by the one caller that fetches
}

// Cache returns a View that caches the values of view.
func Cache(view logical.SystemView) *View { return &View{SystemView: view} }

// A snapshot holds the server's values at one time.
type snapshot struct {
	time             time.Time
	maxLeaseTTL      time.Duration
	replicationState consts.ReplicationState
	localMount       bool
}

// MaxLeaseTTL returns the maximum lease TTL of the mount.
func (v *View) MaxLeaseTTL() time.Duration { return v.current().maxLeaseTTL }

// ReplicationState returns the replication state of the node. Until the server returns it, the
// result is that of a performance standby, as the framework treats a node of unknown state as one
// that may write.
func (v *View) ReplicationState() consts.ReplicationState { return v.current().replicationState }

// LocalMount reports whether the mount is not replicated.
func (v *View) LocalMount() bool { return v.current().localMount }

// current returns the cached snapshot, and fetches a new one if it is older than maxAge. While one
// caller fetches, others get the last snapshot.
func (v *View) current() *snapshot {
	last := v.last.Load()
	if last.isFresh() {
		return last
	}
	if last == nil {
		v.fetching.Lock()
	} else if !v.fetching.TryLock() {
		return last
	}
	defer v.fetching.Unlock()
	if last = v.last.Load(); last.isFresh() { // fetched while this caller waited
		return last
	}
	next, isKnown := v.fetch(last)
	if isKnown {
		v.last.Store(next)
	}
	return next
}

// fetch reads the values from the server. A zero value means that the call failed, and the last one
// is used instead. isKnown is false until the server has returned a replication state, which every
// server has.
func (v *View) fetch(last *snapshot) (next *snapshot, isKnown bool) {
	next = &snapshot{
		time:             time.Now(),
		maxLeaseTTL:      v.SystemView.MaxLeaseTTL(),
		replicationState: v.SystemView.ReplicationState(),
		localMount:       v.SystemView.LocalMount(),
	}
	isKnown = last != nil || next.replicationState != consts.ReplicationUnknown
	if last == nil {
		last = &snapshot{maxLeaseTTL: unlimited, replicationState: consts.ReplicationPerformanceStandby}
	}
	if next.maxLeaseTTL <= 0 {
		next.maxLeaseTTL = last.maxLeaseTTL
	}
	if next.replicationState == consts.ReplicationUnknown {
		next.replicationState = last.replicationState
	}
	return next, isKnown
}

func (s *snapshot) isFresh() bool { return s != nil && time.Since(s.time) < maxAge }
