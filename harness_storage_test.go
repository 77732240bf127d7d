package tokenbroker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// panics has writes of some keys panic.
func panics(prefix string) *func(storageCall) mood {
	meet := func(call storageCall) mood {
		if call.op == "put" && strings.HasPrefix(call.key, prefix) {
			panic("x")
		}
		return mood{wait: time.Millisecond}
	}
	return &meet
}

// takeBack has a node be active again, after another has written.
func (e *engine) takeBack(former logical.Backend) {
	e.backend = former
	for _, key := range []string{"state/api/credential", "state/api/own"} {
		e.backend.InvalidateKey(e.t.Context(), key)
	}
}

// boundedStorage refuses entries over a size, as Vault's storage backends do.
type boundedStorage struct {
	logical.Storage
	most    int // bytes
	refused int
}

func (s *boundedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if size := len(entry.Key) + len(entry.Value); size > s.most {
		s.refused++
		return fmt.Errorf("%s; got %d bytes, max: %d bytes", physical.ErrValueTooLarge, size, s.most)
	}
	return s.Storage.Put(ctx, entry)
}

// raftEntry is the size that Raft storage takes in an entry, unless it is configured.
const raftEntry = 1 << 20

// newBoundedEngine has a credential of 15 scopes, whose refresh token the vendor replaces or not, a
// role for each scope, and storage that refuses entries over a size.
func newBoundedEngine(t *testing.T, most int, rotates bool) (e *engine, storage *boundedStorage, roles []string) {
	t.Helper()
	e = newEngine(t)
	storage = &boundedStorage{Storage: e.storage, most: most}
	e.storage = storage
	var scopes []string
	for i := range 15 {
		scopes = append(scopes, fmt.Sprintf("s%d", i))
	}
	client := vendorsim.OAuthClient{
		ID: clientID, Secret: clientSecret, Scopes: scopes, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant}, Rotate: rotates,
	}
	e.sim.AddOAuthClient(client)
	e.sim.AddOAuthRefreshToken(client, refreshToken, scopes...)
	fields := secretClient(true)
	fields["scope"], fields["refresh_token"] = scopes, refreshToken
	e.write("config/oauth2/api", fields)
	for _, scope := range scopes {
		e.write("roles/"+scope, map[string]any{"config": "api", "scope": scope})
		roles = append(roles, scope)
	}
	return e, storage, roles
}

// lengthen has the vendor's access tokens be longer than a bounded engine's storage takes.
func (e *engine) lengthen() {
	e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.sim.Amend(func(answer map[string]any) {
		answer["access_token"] = strings.Repeat("a", 32<<10)
	}))})
}

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

// amend changes an entry in storage.
func (e *engine) amend(key string, change func(map[string]any)) {
	e.t.Helper()
	entry, err := e.storage.Get(e.t.Context(), key)
	require.NoError(e.t, err)
	fields := map[string]any{}
	require.NoError(e.t, entry.DecodeJSON(&fields))
	change(fields)
	raw, err := json.Marshal(fields)
	require.NoError(e.t, err)
	require.NoError(e.t, e.storage.Put(e.t.Context(), &logical.StorageEntry{Key: key, Value: raw}))
}
