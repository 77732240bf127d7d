package engine

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

// Panics has writes of some keys panic.
func Panics(prefix string) *func(StorageCall) Fault {
	meet := func(call StorageCall) Fault {
		if call.Op == "put" && strings.HasPrefix(call.Key, prefix) {
			panic("x")
		}
		return Fault{Wait: time.Millisecond}
	}
	return &meet
}

// TakeBack has a node be active again, after another has written.
func (e *Engine) TakeBack(former logical.Backend) {
	e.Backend = former
	for _, key := range []string{"state/api/credential", "state/api/own"} {
		e.Backend.InvalidateKey(e.T.Context(), key)
	}
}

// BoundedStorage refuses entries over a size, as Vault's storage backends do.
type BoundedStorage struct {
	logical.Storage
	Most    int // bytes
	Refused int
}

// Put refuses an entry that is too large, as Raft does.
func (s *BoundedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if size := len(entry.Key) + len(entry.Value); size > s.Most {
		s.Refused++
		return fmt.Errorf("%s; got %d bytes, max: %d bytes", physical.ErrValueTooLarge, size, s.Most)
	}
	return s.Storage.Put(ctx, entry)
}

// RaftEntry is the size that Raft storage takes in an entry, unless it is configured.
const RaftEntry = 1 << 20

// NewBounded has a credential of 15 scopes, whose refresh token the vendor replaces or not, a
// role for each scope, and storage that refuses entries over a size.
func NewBounded(t *testing.T, most int, rotates bool) (e *Engine, storage *BoundedStorage, roles []string) {
	t.Helper()
	e = New(t)
	storage = &BoundedStorage{Storage: e.Storage, Most: most}
	e.Storage = storage
	var scopes []string
	for i := range 15 {
		scopes = append(scopes, fmt.Sprintf("s%d", i))
	}
	client := vendorsim.OAuthClient{
		ID: ClientID, Secret: ClientSecret, Scopes: scopes, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant}, Rotate: rotates,
	}
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, RefreshToken, scopes...)
	fields := SecretClient(true)
	fields["scope"], fields["refresh_token"] = scopes, RefreshToken
	e.Write("config/oauth2/api", fields)
	for _, scope := range scopes {
		e.Write("roles/"+scope, map[string]any{"config": "api", "scope": scope})
		roles = append(roles, scope)
	}
	return e, storage, roles
}

// Lengthen has the vendor's access tokens be longer than a bounded engine's storage takes.
func (e *Engine) Lengthen() {
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
		answer["access_token"] = strings.Repeat("a", 32<<10)
	}))})
}

// FaultyStorage remembers what it is asked, and refuses on demand.
type FaultyStorage struct {
	logical.Storage
	mu          sync.Mutex
	asked       []StorageCall
	Pending     atomic.Int64 // calls that have not been answered yet
	Refuse      atomic.Bool  // refuse to write, but for what is written before a vendor is called
	RefuseFence atomic.Bool  // refuse that
	RefuseReads atomic.Bool
	RefuseState atomic.Bool  // refuse to read what the engine found out
	RefuseAway  atomic.Bool  // refuse to delete
	RefuseLease atomic.Bool  // refuse to write down a dedicated token
	Stall       atomic.Int64 // how long a write takes, in nanoseconds
	StallRead   atomic.Int64 // how long the next read takes to come back, in nanoseconds

	// lastWrites, unless nil, is how many more writes there are until all are refused,
	// as if the server had been killed.
	LastWrites atomic.Pointer[atomic.Int64]

	// meet, unless nil, says how a call is met.
	Meet atomic.Pointer[func(StorageCall) Fault]

	// dead is whether the server has been killed whose storage this was.
	Dead atomic.Bool
}

// StorageCall is what storage is asked.
type StorageCall struct{ Op, Key string }

// Writes reports whether the call changes storage.
func (c StorageCall) Writes() bool { return c.Op == "put" || c.Op == "delete" }

// Fault is how storage meets a call. The zero mood is to do it.
type Fault struct {
	// wait is how long the answer takes, for as long as the caller waits; storage that is
	// deaf does not notice that he has gone.
	Wait time.Duration
	Deaf bool

	// err is the answer, if the caller waits for it. done is whether what was asked
	// is done all the same, and before the wait.
	Err  error
	Done bool
}

// dies is whether a write comes after the last.
func (s *FaultyStorage) dies() bool {
	left := s.LastWrites.Load()
	return left != nil && left.Add(-1) < 0
}

// DieAfter refuses all writes but the next few.
func (s *FaultyStorage) DieAfter(writes int) {
	left := &atomic.Int64{}
	left.Store(int64(writes))
	s.LastWrites.Store(left)
}

// ErrStorage is what storage fails with.
var ErrStorage = errors.New("the disk is full")

func (s *FaultyStorage) mood(c StorageCall) Fault {
	if meet := s.Meet.Load(); meet != nil {
		return (*meet)(c)
	}
	var refuse bool
	switch c.Op {
	case "get":
		if wait := s.StallRead.Swap(0); wait > 0 {
			return Fault{Wait: time.Duration(wait), Done: true}
		}
		refuse = s.RefuseReads.Load() || s.RefuseState.Load() && strings.HasPrefix(c.Key, "state/")
	case "list":
		refuse = s.RefuseReads.Load()
	case "put":
		refuse = s.Refuse.Load()
		if c.Key == "fence" {
			refuse = s.RefuseFence.Load()
		}
		refuse = refuse || s.dies() || s.RefuseLease.Load() && strings.HasPrefix(c.Key, "lease/")
	case "delete":
		refuse = s.RefuseAway.Load() || s.dies()
	}
	m := Fault{}
	if c.Op == "put" {
		m.Wait = time.Duration(s.Stall.Load())
	}
	if refuse {
		m.Err = ErrStorage
	}
	return m
}

// ask meets a call in the mood of the moment.
func (s *FaultyStorage) ask(ctx context.Context, op, key string, do func() error) error {
	call := StorageCall{op, key}
	s.mu.Lock()
	s.asked = append(s.asked, call)
	s.mu.Unlock()
	s.Pending.Add(1)
	defer s.Pending.Add(-1)
	m := s.mood(call)
	act := func() error {
		if s.Dead.Load() {
			return ErrStorage
		}
		return do()
	}
	var err error
	if m.Done {
		err = act()
	}
	if m.Wait > 0 {
		gone := ctx.Done()
		if m.Deaf {
			gone = nil
		}
		select {
		case <-time.After(m.Wait):
		case <-gone:
			return ctx.Err()
		}
	}
	switch {
	case m.Err != nil:
		return m.Err
	case m.Done:
		return err
	}
	return act()
}

// Calls are what it has been asked so far.
func (s *FaultyStorage) Calls() []StorageCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// WritesOf are the writes of a key so far.
func (s *FaultyStorage) WritesOf(key string) []StorageCall {
	return slices.DeleteFunc(s.Calls(), func(c StorageCall) bool { return !c.Writes() || c.Key != key })
}

// Settle waits until all calls have been answered.
func (s *FaultyStorage) Settle() {
	for s.Pending.Load() > 0 {
		time.Sleep(time.Second)
	}
}

// Get is part of logical.Storage.
func (s *FaultyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.ask(ctx, "get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

// List is part of logical.Storage.
func (s *FaultyStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.ask(ctx, "list", prefix, func() (err error) {
		keys, err = s.Storage.List(ctx, prefix)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// Put is part of logical.Storage.
func (s *FaultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.ask(ctx, "put", entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

// Delete is part of logical.Storage.
func (s *FaultyStorage) Delete(ctx context.Context, key string) error {
	return s.ask(ctx, "delete", key, func() error { return s.Storage.Delete(ctx, key) })
}

// BreakStorage puts the engine's storage into a mood.
func (e *Engine) BreakStorage() *FaultyStorage {
	storage := &FaultyStorage{Storage: e.Storage}
	e.Storage = storage
	return storage
}

// Amend changes an entry in storage.
func (e *Engine) Amend(key string, change func(map[string]any)) {
	e.T.Helper()
	entry, err := e.Storage.Get(e.T.Context(), key)
	require.NoError(e.T, err)
	fields := map[string]any{}
	require.NoError(e.T, entry.DecodeJSON(&fields))
	change(fields)
	raw, err := json.Marshal(fields)
	require.NoError(e.T, err)
	require.NoError(e.T, e.Storage.Put(e.T.Context(), &logical.StorageEntry{Key: key, Value: raw}))
}
