package tokenbroker_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
)

// askedSystem counts what the server is asked.
type askedSystem struct {
	logical.StaticSystemView
	asked atomic.Int64
}

func (s *askedSystem) MaxLeaseTTL() time.Duration {
	s.asked.Add(1)
	return s.StaticSystemView.MaxLeaseTTL()
}

func (s *askedSystem) ReplicationState() consts.ReplicationState {
	s.asked.Add(1)
	return s.StaticSystemView.ReplicationState()
}

func (s *askedSystem) LocalMount() bool {
	s.asked.Add(1)
	return s.StaticSystemView.LocalMount()
}

// seeing mounts the engine again, in a server of its own.
func (e *engine) seeing(system logical.SystemView) {
	e.t.Helper()
	e.backend = tokenbroker.New(tokenbroker.Options{Transport: e.transport})
	require.NoError(e.t, e.backend.Setup(e.t.Context(), &logical.BackendConfig{Logger: e.logger, System: system, StorageView: e.storage}))
}

func TestPromise12ACachedReadAsksTheServerNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		system := &askedSystem{StaticSystemView: *e.system}
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
	})
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
		e.write("config/sitecore/prod", map[string]any{"api_key": apiKey})
		e.system.MaxLeaseTTLVal = 0
		assert.Greater(t, e.creds("prod").Secret.TTL, 23*time.Hour)
	})
}
