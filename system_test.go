package tokenbroker_test

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
)

// askedSystem counts what the server is asked.
type askedSystem struct {
	logical.StaticSystemView
	asked  atomic.Int64
	silent atomic.Bool   // it does not answer, which is zero over gRPC
	takes  time.Duration // for an answer
}

func (s *askedSystem) ask() (answered bool) {
	s.asked.Add(1)
	time.Sleep(s.takes)
	return !s.silent.Load()
}

// newAskedSystem is that of a server without replication.
func newAskedSystem(e *engine) *askedSystem { return &askedSystem{StaticSystemView: *e.system} }

func (s *askedSystem) MaxLeaseTTL() time.Duration {
	if !s.ask() {
		return 0
	}
	return s.StaticSystemView.MaxLeaseTTL()
}

func (s *askedSystem) ReplicationState() consts.ReplicationState {
	if !s.ask() {
		return consts.ReplicationUnknown
	}
	return s.StaticSystemView.ReplicationState()
}

func (s *askedSystem) LocalMount() bool { return s.ask() && s.StaticSystemView.LocalMount() }

func TestGuarantee12ACachedReadAsksTheServerNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		system := newAskedSystem(e)
		e.seeing(system)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.creds("prod")
		before := system.asked.Load()
		for range 100 {
			e.creds("prod")
			e.read("token/prod")
		}
		assert.Equal(t, before, system.asked.Load())
		time.Sleep(time.Second)
		e.creds("prod")
		assert.Equal(t, before+3, system.asked.Load(), "once a second, each question once")

		system.takes = 100 * time.Millisecond
		time.Sleep(time.Second)
		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { e.creds("prod") })
		}
		readers.Wait()
		assert.Equal(t, before+6, system.asked.Load(), "one asks for all")
	})
}

func TestGuarantee12AReadOfAServerThatHangsGoesByTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		system := newAskedSystem(e)
		e.seeing(system)
		e.write("config/sitecore/prod", map[string]any{"api_key": apiKey})
		e.creds("prod")
		system.takes = 5 * time.Second
		time.Sleep(time.Second)
		var asking sync.WaitGroup
		asking.Go(func() { e.read("token/prod") })
		synctest.Wait()
		began := time.Now()
		e.read("token/prod")
		assert.Zero(t, time.Since(began))
		asking.Wait()
	})
}

// An error that passes must not have a standby take itself for the active node.
func TestWhatAServerDoesNotAnswerIsAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		system := newAskedSystem(e)
		e.seeing(system)
		lease := e.creds("prod").Secret.TTL
		read := func() error {
			time.Sleep(time.Second)
			_, err := e.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.storage})
			return err
		}
		system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		require.ErrorIs(t, read(), logical.ErrReadOnly)
		system.silent.Store(true)
		require.ErrorIs(t, read(), logical.ErrReadOnly)
		system.silent.Store(false)
		system.ReplicationStateVal = consts.ReplicationPerformancePrimary
		require.NoError(t, read())
		assert.InDelta(t, lease.Seconds(), e.creds("prod").Secret.TTL.Seconds(), 10)
	})
}

// A standby that cannot ask at first must not take itself for the active node either.
func TestANodeMayNotWriteUntilTheServerHasSaidThatItMay(t *testing.T) {
	for name, role := range map[string]consts.ReplicationState{
		"a standby":       consts.ReplicationPerformanceStandby | consts.ReplicationDRDisabled,
		"a secondary":     consts.ReplicationPerformanceSecondary | consts.ReplicationDRDisabled,
		"the active node": unreplicated,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				system := newAskedSystem(e)
				system.ReplicationStateVal = role
				system.silent.Store(true)
				e.seeing(system)
				before, calls := e.dump(), e.exchanges()
				request := func(op logical.Operation, path string) error {
					_, err := e.backend.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Storage: e.storage})
					return err
				}
				until(1, 0, 5) // when there is no token
				for range 3 {
					require.ErrorIs(t, request(logical.ReadOperation, "creds/prod"), logical.ErrReadOnly)
					require.ErrorIs(t, request(logical.UpdateOperation, "refresh/prod"), logical.ErrReadOnly)
					require.ErrorIs(t, request(logical.DeleteOperation, "config/kensho/prod"), logical.ErrReadOnly)
					require.NoError(t, e.tick())
					time.Sleep(time.Minute)
				}
				assert.Equal(t, calls, e.exchanges())
				assert.Equal(t, before, e.dump())

				system.silent.Store(false)
				err := request(logical.ReadOperation, "creds/prod")
				if role == unreplicated {
					require.NoError(t, err, "the first answer counts at once")
				} else {
					require.ErrorIs(t, err, logical.ErrReadOnly)
				}
			})
		})
	}
}

// A standby, or a secondary, has the active node answer: it may exchange nothing.
func TestReadsAreSentOnByANodeThatMayNotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		for _, path := range []string{"creds/prod", "token/prod"} {
			read := func() error {
				time.Sleep(time.Second) // for which what was last seen of the server counts
				_, err := e.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: e.storage})
				return err
			}
			e.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
			require.ErrorIs(t, read(), logical.ErrReadOnly, path)
			e.system.ReplicationStateVal = consts.ReplicationPerformanceSecondary
			require.ErrorIs(t, read(), logical.ErrReadOnly, path)
			e.system.LocalMountVal = true
			require.NoError(t, read(), "%s of a mount that is not replicated", path)
			e.system.ReplicationStateVal, e.system.LocalMountVal = consts.ReplicationPerformancePrimary, false
			require.NoError(t, read(), path)
		}
	})
}

// Over gRPC, a server that does not answer has a maximum of zero, and of a lease of no
// time Vault makes one of the default.
func TestALeaseIsThatOfTheTokenIfTheServerTellsNoMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.system.MaxLeaseTTLVal = 0
		e.write("config/sitecore/prod", map[string]any{"api_key": apiKey})
		assert.Greater(t, e.creds("prod").Secret.TTL, 23*time.Hour)
	})
}
