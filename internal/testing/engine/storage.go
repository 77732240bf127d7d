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

// PanicOnWrite returns an OnCall function that panics on writes of keys with a prefix. Other
// calls take a millisecond.
func PanicOnWrite(prefix string) *func(StorageCall) Fault {
	meet := func(call StorageCall) Fault {
		if call.Op == "put" && strings.HasPrefix(call.Key, prefix) {
			panic("x")
		}
		return Fault{Wait: time.Millisecond}
	}
	return &meet
}

// Reactivate makes a former node active again after another node has written, as Vault does:
// by invalidations of the keys that have changed.
func (e *Engine) Reactivate(former logical.Backend) {
	e.Backend = former
	for _, key := range []string{"state/api/grant", "state/api/own"} {
		e.Backend.InvalidateKey(e.T.Context(), key)
	}
}

// BoundedStorage refuses entries larger than MaxSize, as Vault's storage backends do.
type BoundedStorage struct {
	logical.Storage
	MaxSize int // bytes
	Refused int // writes refused so far
}

// Put refuses an entry that is too large, with the error of Vault's Raft storage.
func (s *BoundedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if size := len(entry.Key) + len(entry.Value); size > s.MaxSize {
		s.Refused++
		return fmt.Errorf("%s; got %d bytes, max: %d bytes", physical.ErrValueTooLarge, size, s.MaxSize)
	}
	return s.Storage.Put(ctx, entry)
}

// RaftEntry is the default max_entry_size of Raft storage in bytes.
const RaftEntry = 1 << 20

// NewBounded mounts an engine with the OAuth 2.0 credential api, which has 15 scopes and a refresh
// token, and a role for each scope. Its storage refuses entries over maxSize bytes. If rotates is
// set, the vendor rotates refresh tokens.
func NewBounded(t *testing.T, maxSize int, rotates bool) (e *Engine, storage *BoundedStorage, roles []string) {
	t.Helper()
	e = New(t)
	storage = &BoundedStorage{Storage: e.Storage, MaxSize: maxSize}
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

// OversizeTokens makes the vendor issue access tokens of 32 KiB.
func (e *Engine) OversizeTokens() {
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
		answer["access_token"] = strings.Repeat("a", 32<<10)
	}))})
}

// FaultyStorage records the calls that it gets, and makes them fail or wait on demand.
type FaultyStorage struct {
	logical.Storage
	mu            sync.Mutex
	calls         []StorageCall
	Pending       atomic.Int64 // calls in progress
	Refuse        atomic.Bool  // refuse writes, except of the probe before an exchange
	RefuseProbe   atomic.Bool  // refuse writes of the probe
	RefuseReads   atomic.Bool  // refuse reads and lists
	RefuseState   atomic.Bool  // refuse reads of state/
	RefuseDeletes atomic.Bool  // refuse deletes
	RefuseLease   atomic.Bool  // refuse writes of lease/
	Stall         atomic.Int64 // the duration of each write, in nanoseconds
	StallRead     atomic.Int64 // the delay of the next read's answer, in nanoseconds

	// WritesLeft, unless nil, is the number of writes and deletes that still succeed. All later
	// ones fail, as after a crash.
	WritesLeft atomic.Pointer[atomic.Int64]

	// OnCall, unless nil, decides the fault of each call; the fields above are then ignored.
	OnCall atomic.Pointer[func(StorageCall) Fault]

	// Forgetful stops the recording of calls, to save memory in long simulations.
	Forgetful bool

	// Killed makes every call fail, as from a server that has been killed.
	Killed atomic.Bool
}

// StorageCall is a call of storage. Op is get, list, put or delete.
type StorageCall struct{ Op, Key string }

// Writes reports whether the call changes storage.
func (c StorageCall) Writes() bool { return c.Op == "put" || c.Op == "delete" }

// Fault is what happens to a storage call. The zero value carries the call out.
type Fault struct {
	// Wait delays the answer. If the caller's context ends first, the call returns its error,
	// unless IgnoreContext is set.
	Wait          time.Duration
	IgnoreContext bool

	// Err is returned after the wait, and the call is not carried out. With Done, the call is
	// carried out before the wait in any case.
	Err  error
	Done bool
}

// noWritesLeft counts a write, and reports whether it comes after the last that succeeds.
func (s *FaultyStorage) noWritesLeft() bool {
	left := s.WritesLeft.Load()
	return left != nil && left.Add(-1) < 0
}

// FailWritesAfter refuses all writes and deletes after the next few.
func (s *FaultyStorage) FailWritesAfter(writes int) {
	left := &atomic.Int64{}
	left.Store(int64(writes))
	s.WritesLeft.Store(left)
}

// ErrStorage is the error of refused calls.
var ErrStorage = errors.New("the disk is full")

// fault returns what happens to a call now.
func (s *FaultyStorage) fault(c StorageCall) Fault {
	if onCall := s.OnCall.Load(); onCall != nil {
		return (*onCall)(c)
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
		if c.Key == "probe" {
			refuse = s.RefuseProbe.Load()
		}
		refuse = refuse || s.noWritesLeft() || s.RefuseLease.Load() && strings.HasPrefix(c.Key, "lease/")
	case "delete":
		refuse = s.RefuseDeletes.Load() || s.noWritesLeft()
	}
	var fault Fault
	if c.Op == "put" {
		fault.Wait = time.Duration(s.Stall.Load())
	}
	if refuse {
		fault.Err = ErrStorage
	}
	return fault
}

// call records a call and carries it out by do, subject to its fault.
func (s *FaultyStorage) call(ctx context.Context, op, key string, do func() error) error {
	call := StorageCall{op, key}
	if !s.Forgetful {
		s.mu.Lock()
		s.calls = append(s.calls, call)
		s.mu.Unlock()
	}
	s.Pending.Add(1)
	defer s.Pending.Add(-1)
	fault := s.fault(call)
	act := func() error {
		if s.Killed.Load() {
			return ErrStorage
		}
		return do()
	}
	var err error
	if fault.Done {
		err = act()
	}
	if fault.Wait > 0 {
		canceled := ctx.Done()
		if fault.IgnoreContext {
			canceled = nil
		}
		select {
		case <-time.After(fault.Wait):
		case <-canceled:
			return ctx.Err()
		}
	}
	switch {
	case fault.Err != nil:
		return fault.Err
	case fault.Done:
		return err
	}
	return act()
}

// Calls returns the calls so far.
func (s *FaultyStorage) Calls() []StorageCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Reset forgets the calls so far.
func (s *FaultyStorage) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// WritesOf returns the writes and deletes of a key so far.
func (s *FaultyStorage) WritesOf(key string) []StorageCall {
	return slices.DeleteFunc(s.Calls(), func(c StorageCall) bool { return !c.Writes() || c.Key != key })
}

// Settle waits until no call is in progress.
func (s *FaultyStorage) Settle() {
	for s.Pending.Load() > 0 {
		time.Sleep(time.Second)
	}
}

// Get implements logical.Storage.
func (s *FaultyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.call(ctx, "get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

// List implements logical.Storage.
func (s *FaultyStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.call(ctx, "list", prefix, func() (err error) {
		keys, err = s.Storage.List(ctx, prefix)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// Put implements logical.Storage.
func (s *FaultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.call(ctx, "put", entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

// Delete implements logical.Storage.
func (s *FaultyStorage) Delete(ctx context.Context, key string) error {
	return s.call(ctx, "delete", key, func() error { return s.Storage.Delete(ctx, key) })
}

// BreakStorage wraps the engine's storage in a FaultyStorage, for later requests and restarts.
func (e *Engine) BreakStorage() *FaultyStorage {
	storage := &FaultyStorage{Storage: e.Storage}
	e.Storage = storage
	return storage
}

// Amend changes the fields of a storage entry.
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
