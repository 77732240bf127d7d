package broker

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// hooked is a quiet whose credentials can fail or panic.
type hooked struct {
	*quiet
	fails  map[string]error
	panics bool
	change func(*Credential)
}

func newHooked(names ...string) *hooked {
	h := &hooked{quiet: newQuiet(names...), fails: map[string]error{}}
	h.Broker = New(h, ignoreExchanges{})
	return h
}

type hookedVendor struct {
	provider.Credential
	*hooked
}

func (v hookedVendor) MaxIdle() time.Duration {
	if v.panics {
		panic("broken")
	}
	return v.idle
}

func (v hookedVendor) Exchange(ctx context.Context, g provider.Grant) (*provider.Answer, error) {
	return quietVendor{quiet: v.quiet}.Exchange(ctx, g)
}

func (h *hooked) Credential(ctx context.Context, s logical.Storage, name string) (*Credential, error) {
	if err := h.fails[name]; err != nil {
		return nil, err
	}
	c, err := h.quiet.Credential(ctx, s, name)
	if err == nil {
		c.Vendor = hookedVendor{hooked: h}
		if h.change != nil {
			h.change(c)
		}
	}
	return c, err
}

func testHooked(t *testing.T, names []string, f func(t *testing.T, h *hooked)) {
	t.Helper()
	testQuiet(t, func(t *testing.T, _ *quiet) { f(t, newHooked(names...)) })
}

// A credential that could not be opened because of its client, and was evicted, is not loaded again by the write of the
// client: it is shown as unusable without end, and expires from disuse.
func TestAnEvictedUnusableNameIsReadAgainAfterAChangeOfItsClient(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		h.client, h.idle = "app", 30*24*time.Hour
		h.fails["a"] = errors.New("the client app is damaged; write it again")
		h.pass(t, 10*time.Minute)
		require.True(t, h.isEvicted("a"))
		delete(h.fails, "a")
		h.UnloadUsers("app", true) // the write of the client
		h.pass(t, 60*24*time.Hour)
		for _, s := range h.Statuses() {
			assert.False(t, s.IsUnusable)
		}
		assert.Positive(t, h.exchanges, "keepalive goes on (guarantee 7)")
	})
}

// A name of which a look panics right after a change is never looked at again.
func TestANameThatPanicsAfterAChangeIsSweptAgainAfterItsPause(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		h.idle = 30 * 24 * time.Hour
		_, err := h.read(t, "a")
		require.NoError(t, err)
		h.pass(t, 2*time.Minute)
		h.panics = true
		h.Forget("a") // a write, or that of another node
		h.pass(t, 2*time.Minute)
		require.Equal(t, unusable, h.cached("a").get().presence)
		h.panics = false
		exchanges := h.exchanges
		h.pass(t, 60*24*time.Hour)
		assert.Greater(t, h.exchanges, exchanges, "keepalive goes on (guarantee 7)")
	})
}

// A scope that was rejected is shown as rejected for as long as nobody reads the credential.
func TestARejectedScopeOfAnEvictedNameIsForgotten(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		_, err := h.read(t, "a")
		require.NoError(t, err)
		r := h.cached("a")
		now := time.Now()
		snap := r.get()
		next := snap.state.failed("read", &provider.Error{Kind: provider.Rejected, Reason: "invalid_scope", MayBeScope: true}, now)
		unlock, _ := h.locks.tryLock("a")
		_, err = h.save(t.Context(), h.storage, r, snap, "read", next)
		require.NoError(t, err)
		unlock()
		// A restart.
		again := newHooked("a")
		again.storage = h.storage
		again.pass(t, time.Minute)
		require.True(t, again.isEvicted("a"))
		again.pass(t, 12*time.Hour)
		loaded, err := again.lookup(t.Context(), again.storage, "a")
		require.NoError(t, err)
		read := newStatus(loaded, time.Now())
		for _, s := range again.Statuses() {
			assert.Equal(t, read.State, s.State)
			assert.Len(t, s.Scopes, len(read.Scopes), "%v", s.Scopes)
		}
	})
}

// The summary of a credential that has exchanged callers' tokens keeps the whole record in memory.
func TestASummaryKeepsNoCredential(t *testing.T) {
	h := newHooked("a")
	_, err := h.read(t, "a")
	require.NoError(t, err)
	freed := make(chan bool, 1)
	func() { // so that nothing here refers to the record
		r := h.cached("a")
		r.noteDelegated(r.get().epoch, nil, time.Now())
		runtime.AddCleanup(r.current.state, func(c chan bool) { c <- true }, freed)
	}()
	require.True(t, h.evictNow())
	h.touches.take()
	for range 5 {
		runtime.GC()
		select {
		case <-freed:
			runtime.KeepAlive(h)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	runtime.KeepAlive(h)
	t.Error("the state of an evicted name is still in memory")
}

// A touch between a look and the removal of the record from the touched ones is lost.
func TestATouchDuringALookIsNotLost(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		_, err := h.read(t, "a")
		require.NoError(t, err)
		require.NoError(t, h.Sweep(t.Context(), h.storage))
		h.Forget("a")
		for _, r := range h.touches.take() { // as dueTasks does
			h.lookAgainAt(r.name, time.Now())
		}
		require.NoError(t, h.wake(t.Context(), h.storage, time.Now(), func(r *record) {
			h.lookAt(r, time.Now())
			if r = h.cached("a"); r == nil { // evicted
				return
			}
			r.noteRead(ownScope) // a reader
		}))
		r := h.cached("a")
		require.NotNil(t, r, "the read keeps it in memory")
		assert.Contains(t, h.touches.take(), r)
	})
}

// A caller whose token is being verified uses a record that a sweep has evicted meanwhile: nothing of its exchange is kept.
func TestANameThatACallerHasLoadedIsNotEvicted(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		h.pass(t, 2*time.Minute)
		require.True(t, h.isEvicted("a"))
		r, snap, err := h.loaded(t.Context(), h.storage, "a") // as delegate does
		require.NoError(t, err)
		h.pass(t, time.Minute) // Delegation.Verify fetches the keys of an issuer
		r.delegationsOf(snap.epoch)
		assert.Same(t, h.cached("a"), r)
	})
}

// Tokens from before a change are forgotten with a credential that cannot be opened for a while.
func TestGuarantee1PreviousTokensOfAnUnusableNameAreNotEvicted(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		h.maxTTL = 10 * time.Hour
		_, err := h.read(t, "a")
		require.NoError(t, err)
		h.fails["a"] = errors.New("its key pair is missing")
		h.Forget("a")
		require.NotEmpty(t, h.cached("a").get().previousTokens)
		h.pass(t, 2*time.Hour)
		assert.False(t, h.isEvicted("a"))
	})
}

// UnloadUsers leaves the uses of a name whose summary is already stale.
func TestVoidTokensOfAStaleSummaryAreNotInUse(t *testing.T) {
	testHooked(t, []string{"a"}, func(t *testing.T, h *hooked) {
		h.client = "app"
		for range 2 {
			_, err := h.read(t, "a")
			require.NoError(t, err)
		}
		require.True(t, h.evictNow())
		require.NotEmpty(t, h.entries["a"].summary.uses)
		h.Unload("a")              // a change of settings
		h.UnloadUsers("app", true) // before the next sweep
		assert.Empty(t, h.entries["a"].summary.uses)
	})
}
