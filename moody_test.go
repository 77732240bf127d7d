package tokenbroker_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// moodyStorage counts what it is asked, and refuses on demand.
type moodyStorage struct {
	logical.Storage
	calls       atomic.Int64
	refuse      atomic.Bool
	refuseReads atomic.Bool
	refuseState atomic.Bool  // refuse to read what the engine found out
	refuseAway  atomic.Bool  // refuse to delete
	refuseLease atomic.Bool  // refuse to write down a dedicated token
	stall       atomic.Int64 // how long a write takes, in nanoseconds
	stallRead   atomic.Int64 // how long the next read takes to come back, in nanoseconds

	// lastWrites, unless nil, is how many more writes there are until all are refused,
	// as if the server had been killed.
	lastWrites atomic.Pointer[atomic.Int64]
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

func (s *moodyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.calls.Add(1)
	if s.refuseReads.Load() || s.refuseState.Load() && strings.HasPrefix(key, "state/") {
		return nil, errStorage
	}
	entry, err := s.Storage.Get(ctx, key)
	time.Sleep(time.Duration(s.stallRead.Swap(0)))
	return entry, err
}

func (s *moodyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.calls.Add(1)
	if s.refuseReads.Load() {
		return nil, errStorage
	}
	return s.Storage.List(ctx, prefix)
}

func (s *moodyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.calls.Add(1)
	time.Sleep(time.Duration(s.stall.Load()))
	if s.refuse.Load() || s.dies() || s.refuseLease.Load() && strings.HasPrefix(entry.Key, "lease/") {
		return errStorage
	}
	return s.Storage.Put(ctx, entry)
}

func (s *moodyStorage) Delete(ctx context.Context, key string) error {
	s.calls.Add(1)
	if s.refuseAway.Load() || s.dies() {
		return errStorage
	}
	return s.Storage.Delete(ctx, key)
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
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, "down"))}
}

func keyPair() map[string]any {
	return map[string]any{"client_id": clientID, "private_key": privateKeyPEM()}
}
