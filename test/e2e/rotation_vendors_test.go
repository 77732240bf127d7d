//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const rotationMount = "rotations"

// rotationWorld returns a server with the engine at rotationMount. It reaches vendors at the URLs of the real ones.
func rotationWorld(t *testing.T, start starter, vendors http.Handler) *world {
	t.Helper()
	own, err := bareWorld(t.Context(), start, behindProxy(t, vendors, nil)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, own.server.Stop()) })
	require.NoError(t, own.register(t.Context()))
	require.NoError(t, own.root.Sys().MountWithContext(t.Context(), rotationMount, &api.MountInput{
		Type: pluginName, Config: api.MountConfigInput{PluginVersion: own.version},
	}))
	return own
}

// vendorLatency is the time that the vendors take for an answer.
const vendorLatency = 20 * time.Millisecond

// The places of a kill in a rotation.
const (
	beforeVendor    = "before the vendor is asked"
	atVendor        = "while the vendor answers"
	betweenRequests = "after an answer"
	whileStoring    = "while the server stores"
)

// orderlyVendors are simulated vendors that count requests. They handle those of a process that is killed before those
// of the next one.
type orderlyVendors struct {
	*vendorsim.Sim
	begun, answered atomic.Int64 // requests since reset

	mu      sync.Mutex
	current *sync.WaitGroup   // requests since the last kill
	former  []*sync.WaitGroup // requests before it
}

func newOrderlyVendors(sim *vendorsim.Sim) *orderlyVendors {
	return &orderlyVendors{Sim: sim, current: &sync.WaitGroup{}}
}

func (v *orderlyVendors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	current, former := v.current, v.former
	current.Add(1)
	v.mu.Unlock()
	defer current.Done()
	for _, requests := range former {
		requests.Wait()
	}
	v.begun.Add(1)
	defer v.answered.Add(1)
	v.Sim.ServeHTTP(w, r)
}

// reset sets the counts of requests to zero.
func (v *orderlyVendors) reset() {
	v.begun.Store(0)
	v.answered.Store(0)
}

// breaking makes later requests wait for those in flight.
func (v *orderlyVendors) breaking() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.former, v.current = append(v.former, v.current), &sync.WaitGroup{}
}

// place returns where a rotation is now.
func (v *orderlyVendors) place(isWriting bool) string {
	answered, begun := v.answered.Load(), v.begun.Load()
	switch {
	case begun > answered:
		return atVendor
	case isWriting:
		return whileStoring
	case begun == 0:
		return beforeVendor
	}
	return betweenRequests
}

// A storageWatch notices that a server with Raft storage writes.
type storageWatch struct {
	file string
	at   time.Time
}

func newStorageWatch(server *vaultserver.Server) storageWatch {
	w := storageWatch{file: filepath.Join(server.Dir(), "raft", "raft", "raft.db")}
	w.at = w.modified()
	return w
}

func (w storageWatch) hasChanged() bool { return !w.modified().Equal(w.at) }

func (w storageWatch) modified() time.Time {
	info, err := os.Stat(w.file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
