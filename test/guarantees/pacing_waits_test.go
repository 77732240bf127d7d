package guarantees_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee16AnAssertionIsSignedWhenItIsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for n := range 20 {
			e.Write(fmt.Sprint("config/kensho/k", n), with(engine.KeyPairFields(), map[string]any{"verify": false}))
		}
		e.Write("hosts/kensho.okta.com", map[string]any{"requests_per_second": 1})
		e.Sim.Behave(vendorsim.Conduct{StrictDates: true})
		var all sync.WaitGroup
		var mu sync.Mutex
		got := map[string]int{}
		for n := range 20 {
			all.Go(func() {
				_, status, message := e.Request(logical.ReadOperation, fmt.Sprint("creds/k", n), nil)
				mu.Lock()
				got[fmt.Sprint(status)]++
				if status != 200 {
					got[message]++
				}
				mu.Unlock()
			})
		}
		all.Wait()
		assert.Equal(t, map[string]int{"200": 20}, got)
	})
}

func TestGuarantee16ADeleteRevokesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 29, 1)
		e.Write("config/oauth2/leaked", engine.SecretClient(true))
		token := engine.TokenOf(e.Creds("leaked"))
		var readers sync.WaitGroup
		occupy(e, &readers, 25)
		began := time.Now()
		_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/leaked", nil)
		require.Less(t, status, 300, message)
		assert.Zero(t, time.Since(began))
		assert.Contains(t, e.Sim.Revoked(), token)
		readers.Wait()
	})
}

func TestGuarantee15AStorageErrorOfOneLimitHarmsNoCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("hosts/other.example", map[string]any{"requests_per_second": 1})
		s := e.BreakStorage()
		fault := func(c engine.StorageCall) engine.Fault {
			if strings.HasPrefix(c.Key, "host/other") {
				return engine.Fault{Err: errors.New("cannot decrypt")}
			}
			return engine.Fault{}
		}
		s.OnCall.Store(&fault)
		e.Restart()
		_, status, message := e.Request(logical.ReadOperation, "creds/api", nil)
		assert.Equal(t, http.StatusOK, status, message)
		require.NoError(t, e.Tick())
	})
}

func TestGuarantee8ADropWaitsForNoReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 25, 1)
		e.Write("roles/narrow", map[string]any{"config": "c24", "scope": "read"})
		var readers sync.WaitGroup
		occupy(e, &readers, 20)
		readers.Go(func() { e.Request(logical.ReadOperation, "creds/c24", nil) })
		synctest.Wait()
		readers.Go(func() { e.Request(logical.ReadOperation, "creds/narrow", nil) })
		synctest.Wait()
		began := time.Now()
		e.Write("refresh/c24", map[string]any{"drop": true})
		assert.Zero(t, time.Since(began))
		readers.Wait()
	})
}

func TestALeaseIsRevokedInAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 31, 1)
		lease := e.Creds("mine")
		var readers sync.WaitGroup
		occupy(e, &readers, 31)
		require.NoError(t, e.Revoke(lease))
		assert.Contains(t, e.Sim.Revoked(), engine.TokenOf(lease))
		readers.Wait()
	})
}

func TestAllReadersAreServedSoonAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 500
		e := newLimited(t, names, 0)
		readAll := func() (served int) {
			var count atomic.Int32
			var all sync.WaitGroup
			for n := range names {
				all.Go(func() {
					if _, status, _ := e.Request(logical.ReadOperation, fmt.Sprint("creds/c", n), nil); status == http.StatusOK {
						count.Add(1)
					}
				})
			}
			all.Wait()
			return int(count.Load())
		}
		e.Sim.Behave(engine.Down())
		began := time.Now()
		for time.Since(began) < 10*time.Minute {
			assert.Zero(t, readAll())
			time.Sleep(time.Second)
		}
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(15 * time.Second)
		readAll() // one of them finds out
		assert.GreaterOrEqual(t, readAll(), names-150, "all but those whose own request has failed, which back off")
	})
}
