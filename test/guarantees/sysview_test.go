package guarantees_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// countedSystem is a system view that counts its calls.
type countedSystem struct {
	logical.StaticSystemView
	asked  atomic.Int64
	silent atomic.Bool   // calls fail, which yields zero values over gRPC
	takes  time.Duration // the duration of a call
}

func (s *countedSystem) ask() (answered bool) {
	s.asked.Add(1)
	time.Sleep(s.takes)
	return !s.silent.Load()
}

// newCountedSystem returns the view of a server without replication.
func newCountedSystem(e *engine.Engine) *countedSystem {
	return &countedSystem{StaticSystemView: *e.System}
}

func (s *countedSystem) MaxLeaseTTL() time.Duration {
	if !s.ask() {
		return 0
	}
	return s.StaticSystemView.MaxLeaseTTL()
}

func (s *countedSystem) ReplicationState() consts.ReplicationState {
	if !s.ask() {
		return consts.ReplicationUnknown
	}
	return s.StaticSystemView.ReplicationState()
}

func (s *countedSystem) LocalMount() bool { return s.ask() && s.StaticSystemView.LocalMount() }

func TestGuarantee12ACachedReadMakesNoRequestToTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		system := newCountedSystem(e)
		e.RestartWith(system)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("prod")
		before := system.asked.Load()
		for range 100 {
			e.Creds("prod")
			e.Read("token/prod")
		}
		assert.Equal(t, before, system.asked.Load())
		time.Sleep(time.Second)
		e.Creds("prod")
		assert.Equal(t, before+3, system.asked.Load(), "each value is fetched once a second")

		system.takes = 100 * time.Millisecond
		time.Sleep(time.Second)
		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { e.Creds("prod") })
		}
		readers.Wait()
		assert.Equal(t, before+6, system.asked.Load(), "concurrent reads share one call")
	})
}

func TestGuarantee12AReadUsesTheLastAnswerOfAServerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		system := newCountedSystem(e)
		e.RestartWith(system)
		e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey})
		e.Creds("prod")
		system.takes = 5 * time.Second
		time.Sleep(time.Second)
		var asking sync.WaitGroup
		asking.Go(func() { e.Read("token/prod") })
		synctest.Wait()
		started := time.Now()
		e.Read("token/prod")
		assert.Zero(t, time.Since(started))
		asking.Wait()
	})
}

// A standby must not act as the active node because a call fails.
func TestAFailedSystemCallKeepsTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		system := newCountedSystem(e)
		e.RestartWith(system)
		lease := e.Creds("prod").Secret.TTL
		read := func() error {
			time.Sleep(time.Second)
			_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.Storage})
			return err
		}
		system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		require.ErrorIs(t, read(), logical.ErrReadOnly)
		system.silent.Store(true)
		require.ErrorIs(t, read(), logical.ErrReadOnly)
		system.silent.Store(false)
		system.ReplicationStateVal = consts.ReplicationPerformancePrimary
		require.NoError(t, read())
		assert.InDelta(t, lease.Seconds(), e.Creds("prod").Secret.TTL.Seconds(), 10)
	})
}

// A standby whose first call fails must not act as the active node either.
func TestANodeDoesNotWriteBeforeTheFirstAnswer(t *testing.T) {
	for name, role := range map[string]consts.ReplicationState{
		"a standby":       consts.ReplicationPerformanceStandby | consts.ReplicationDRDisabled,
		"a secondary":     consts.ReplicationPerformanceSecondary | consts.ReplicationDRDisabled,
		"the active node": engine.Unreplicated,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				system := newCountedSystem(e)
				system.ReplicationStateVal = role
				system.silent.Store(true)
				e.RestartWith(system)
				before, calls := e.Dump(), e.Exchanges()
				request := func(op logical.Operation, path string) error {
					_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Storage: e.Storage})
					return err
				}
				engine.Until(1, 0, 5) // the token has expired
				for range 3 {
					require.ErrorIs(t, request(logical.ReadOperation, "creds/prod"), logical.ErrReadOnly)
					require.ErrorIs(t, request(logical.UpdateOperation, "refresh/prod"), logical.ErrReadOnly)
					require.ErrorIs(t, request(logical.DeleteOperation, "config/kensho/prod"), logical.ErrReadOnly)
					require.NoError(t, e.Tick())
					time.Sleep(time.Minute)
				}
				assert.Equal(t, calls, e.Exchanges())
				assert.Equal(t, before, e.Dump())

				system.silent.Store(false)
				err := request(logical.ReadOperation, "creds/prod")
				if role == engine.Unreplicated {
					require.NoError(t, err, "the first answer applies at once")
				} else {
					require.ErrorIs(t, err, logical.ErrReadOnly)
				}
			})
		})
	}
}

// A standby or secondary must not exchange tokens, so the active node answers.
func TestReadsAreForwardedByAReadOnlyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		for _, path := range []string{"creds/prod", "token/prod"} {
			read := func() error {
				time.Sleep(time.Second) // the cached view expires
				_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: e.Storage})
				return err
			}
			e.System.ReplicationStateVal = consts.ReplicationPerformanceStandby
			require.ErrorIs(t, read(), logical.ErrReadOnly, path)
			e.System.ReplicationStateVal = consts.ReplicationPerformanceSecondary
			require.ErrorIs(t, read(), logical.ErrReadOnly, path)
			e.System.LocalMountVal = true
			require.NoError(t, read(), "%s of a mount that is not replicated", path)
			e.System.ReplicationStateVal, e.System.LocalMountVal = consts.ReplicationPerformancePrimary, false
			require.NoError(t, read(), path)
		}
	})
}

// Over gRPC a failed call yields a maximum of zero. Vault replaces a lease of zero by its
// default, which may exceed the lifetime of the token.
func TestALeaseFollowsTheTokenIfTheMaximumIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.System.MaxLeaseTTLVal = 0
		e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey})
		assert.Greater(t, e.Creds("prod").Secret.TTL, 23*time.Hour)
	})
}
