package tokenbroker_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// moodyStorage remembers what it is asked, and refuses on demand.
type moodyStorage struct {
	logical.Storage
	mu          sync.Mutex
	asked       []storageCall
	pending     atomic.Int64 // calls that have not been answered yet
	refuse      atomic.Bool  // refuse to write, but for what is written before a vendor is called
	refuseFence atomic.Bool  // refuse that
	refuseReads atomic.Bool
	refuseState atomic.Bool  // refuse to read what the engine found out
	refuseAway  atomic.Bool  // refuse to delete
	refuseLease atomic.Bool  // refuse to write down a dedicated token
	stall       atomic.Int64 // how long a write takes, in nanoseconds
	stallRead   atomic.Int64 // how long the next read takes to come back, in nanoseconds

	// lastWrites, unless nil, is how many more writes there are until all are refused,
	// as if the server had been killed.
	lastWrites atomic.Pointer[atomic.Int64]

	// meet, unless nil, says how a call is met.
	meet atomic.Pointer[func(storageCall) mood]

	// dead is whether the server has been killed whose storage this was.
	dead atomic.Bool
}

// A storageCall is what storage is asked.
type storageCall struct{ op, key string }

func (c storageCall) writes() bool { return c.op == "put" || c.op == "delete" }

// A mood is how storage meets a call. The zero mood is to do it.
type mood struct {
	// wait is how long the answer takes, for as long as the caller waits; storage that is
	// deaf does not notice that he has gone.
	wait time.Duration
	deaf bool

	// err is the answer, if the caller waits for it. done is whether what was asked
	// is done all the same, and before the wait.
	err  error
	done bool
}

// dies is whether a write comes after the last.
func (s *moodyStorage) dies() bool {
	left := s.lastWrites.Load()
	return left != nil && left.Add(-1) < 0
}

// dieAfter refuses all writes but the next few.
func (s *moodyStorage) dieAfter(writes int) {
	left := &atomic.Int64{}
	left.Store(int64(writes))
	s.lastWrites.Store(left)
}

var errStorage = errors.New("the disk is full")

func (s *moodyStorage) mood(c storageCall) mood {
	if meet := s.meet.Load(); meet != nil {
		return (*meet)(c)
	}
	var refuse bool
	switch c.op {
	case "get":
		if wait := s.stallRead.Swap(0); wait > 0 {
			return mood{wait: time.Duration(wait), done: true}
		}
		refuse = s.refuseReads.Load() || s.refuseState.Load() && strings.HasPrefix(c.key, "state/")
	case "list":
		refuse = s.refuseReads.Load()
	case "put":
		refuse = s.refuse.Load()
		if c.key == "fence" {
			refuse = s.refuseFence.Load()
		}
		refuse = refuse || s.dies() || s.refuseLease.Load() && strings.HasPrefix(c.key, "lease/")
	case "delete":
		refuse = s.refuseAway.Load() || s.dies()
	}
	m := mood{}
	if c.op == "put" {
		m.wait = time.Duration(s.stall.Load())
	}
	if refuse {
		m.err = errStorage
	}
	return m
}

// ask meets a call in the mood of the moment.
func (s *moodyStorage) ask(ctx context.Context, op, key string, do func() error) error {
	call := storageCall{op, key}
	s.mu.Lock()
	s.asked = append(s.asked, call)
	s.mu.Unlock()
	s.pending.Add(1)
	defer s.pending.Add(-1)
	m := s.mood(call)
	act := func() error {
		if s.dead.Load() {
			return errStorage
		}
		return do()
	}
	var err error
	if m.done {
		err = act()
	}
	if m.wait > 0 {
		gone := ctx.Done()
		if m.deaf {
			gone = nil
		}
		select {
		case <-time.After(m.wait):
		case <-gone:
			return ctx.Err()
		}
	}
	switch {
	case m.err != nil:
		return m.err
	case m.done:
		return err
	}
	return act()
}

// calls are what it has been asked so far.
func (s *moodyStorage) calls() []storageCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// writesOf are the writes of a key so far.
func (s *moodyStorage) writesOf(key string) []storageCall {
	return slices.DeleteFunc(s.calls(), func(c storageCall) bool { return !c.writes() || c.key != key })
}

// settle waits until all calls have been answered.
func (s *moodyStorage) settle() {
	for s.pending.Load() > 0 {
		time.Sleep(time.Second)
	}
}

func (s *moodyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.ask(ctx, "get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

func (s *moodyStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.ask(ctx, "list", prefix, func() (err error) {
		keys, err = s.Storage.List(ctx, prefix)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

func (s *moodyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.ask(ctx, "put", entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

func (s *moodyStorage) Delete(ctx context.Context, key string) error {
	return s.ask(ctx, "delete", key, func() error { return s.Storage.Delete(ctx, key) })
}

// moody puts the engine's storage into a mood.
func (e *engine) moody() *moodyStorage {
	storage := &moodyStorage{Storage: e.storage}
	e.storage = storage
	return storage
}

// damage makes an entry one that cannot be decoded.
func (e *engine) damage(key string) {
	e.t.Helper()
	require.NoError(e.t, e.storage.Put(e.t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
}

// newRotatingEngine has a credential at a vendor who replaces refresh tokens, and
// storage that can be put into a mood.
func newRotatingEngine(t *testing.T) (*engine, *moodyStorage) {
	t.Helper()
	e := newEngine(t)
	e.sim.Behave(vendorsim.Conduct{Rotate: true})
	e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
	return e, e.moody()
}

// tick is one turn of Vault's rollback manager.
func (e *engine) tick() error {
	_, err := e.backend.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage})
	return err
}

// pass lets time pass, with a tick every minute.
func (e *engine) pass(d time.Duration) {
	e.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Minute, time.Until(end)))
		require.NoError(e.t, e.tick())
	}
}

func (e *engine) refused(path string) (status int, message string) {
	e.t.Helper()
	_, status, message = e.request(logical.ReadOperation, path, nil)
	require.NotEqual(e.t, http.StatusOK, status)
	return status, message
}

func down() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, `"down"`))}
}

func keyPair() map[string]any {
	return map[string]any{"client_id": clientID, "private_key": privateKeyPEM()}
}
