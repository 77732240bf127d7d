package faults_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newBusyEngine mounts an engine with credentials whose tokens have expired, at a vendor that
// rotates refresh tokens, and faulty storage.
func newBusyEngine(t *testing.T, credentials int) (*engine.Engine, *engine.FaultyStorage) {
	t.Helper()
	e := engine.New(t)
	e.Sim.Behave(vendorsim.Conduct{Rotate: true})
	for i := range credentials {
		token := fmt.Sprintf("refresh-token-%d", i)
		e.Sim.AddRefreshToken("link-streaming", token)
		e.Write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token, "request_timeout": 5})
		e.Creds(fmt.Sprintf("c%d", i))
	}
	engine.Until(1, 0, 5)
	return e, e.BreakStorage()
}

func TestFaultCleanupWaitsForAFastExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newBusyEngine(t, 20)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 300 * time.Millisecond})
		var readers sync.WaitGroup
		tokens := make([]any, 20)
		for i := range tokens {
			readers.Go(func() { tokens[i] = e.Creds(fmt.Sprintf("c%d", i)).Data["access_token"] })
		}
		time.Sleep(time.Millisecond)
		assert.Equal(t, 299*time.Millisecond, e.Clean())
		stored := fmt.Sprint(e.Dump())
		readers.Wait()
		for _, token := range tokens {
			assert.Contains(t, stored, token, "Cleanup returns after the vendor's answer is stored")
		}
		e.Restart()
		engine.Until(2, 0, 5)
		for i := range tokens {
			e.Creds(fmt.Sprintf("c%d", i))
		}
	})
}

// Given a vendor that hangs, Cleanup and waiting requests return within a second, and no
// goroutine outlives the request_timeout of its exchange.
func TestFaultCleanupDoesNotWaitForAHangingVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		e, _ := newBusyEngine(t, 20)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		calls := e.Exchanges()
		var readers sync.WaitGroup
		for i := range 20 {
			for range 3 {
				readers.Go(func() { e.Refused(fmt.Sprintf("creds/c%d", i)) })
			}
		}
		time.Sleep(time.Millisecond)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, status, _ := e.Request(logical.UpdateOperation, "refresh/c0", nil)
			assert.Equal(t, http.StatusServiceUnavailable, status)
		})
		time.Sleep(time.Millisecond)
		began := time.Now()
		waiting.Go(func() { e.Clean() })
		waiting.Wait()
		assert.Less(t, time.Since(began), time.Second, "neither Cleanup nor a refresh waits for the vendor")
		assert.Equal(t, 20, e.Sim.InFlight(), "exchanges are not canceled: they may answer a refresh token")
		time.Sleep(5*time.Second - 900*time.Millisecond)
		synctest.Wait()
		require.NoError(t, goleak.Find(before), "no goroutine outlives its request_timeout")
		readers.Wait()
		assert.Equal(t, calls+20, e.Exchanges())
	})
}

func TestFaultCleanupEndsASweep(t *testing.T) {
	for _, credentials := range []int{5, 40} { // fewer and more than a sweep renews at once
		synctest.Test(t, func(t *testing.T) {
			e, _ := newBusyEngine(t, credentials)
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
			began := time.Now()
			var sweep sync.WaitGroup
			sweep.Go(func() { assert.NoError(t, e.Tick()) })
			time.Sleep(time.Millisecond)
			e.Clean()
			sweep.Wait()
			assert.Less(t, time.Since(began), time.Second)
			assert.LessOrEqual(t, e.Sim.MostInFlight(), 16)
		})
	}
}

func TestFaultCleanupEndsASweepThatLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 40)
		e.Restart()
		meet := func(engine.StorageCall) engine.Fault { return engine.Fault{Wait: 100 * time.Millisecond} }
		storage.OnCall.Store(&meet)
		began := time.Now()
		var sweep sync.WaitGroup
		sweep.Go(func() { assert.NoError(t, e.Tick()) })
		time.Sleep(time.Second)
		e.Clean()
		sweep.Wait()
		assert.Less(t, time.Since(began), 2*time.Second)
	})
}

func TestFaultCleanupDoesNotWaitForHangingStorage(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, storage := newBusyEngine(t, 4)
			storage.Refuse.Store(true)
			e.Refused("creds/c3")
			meet := func(c engine.StorageCall) engine.Fault {
				if c.Writes() {
					return engine.Fault{Wait: hangTime, IgnoreContext: deaf}
				}
				return engine.Fault{}
			}
			storage.OnCall.Store(&meet)
			var readers sync.WaitGroup
			for i := range 3 {
				readers.Go(func() { e.Request(logical.ReadOperation, fmt.Sprintf("creds/c%d", i), nil) })
			}
			time.Sleep(time.Second)
			e.Clean()
			readers.Wait()
			storage.Settle()
			synctest.Wait()
		})
	}
}

func TestFaultCleanupStoresUnstoredState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 3)
		storage.Refuse.Store(true)
		for i := range 3 {
			e.Refused(fmt.Sprintf("creds/c%d", i))
		}
		storage.Refuse.Store(false)
		_, status, _ := e.Request(logical.DeleteOperation, "config/kensho/c2", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Zero(t, e.Clean())
		e.Restart()
		engine.Until(2, 0, 5)
		e.Creds("c0")
		e.Creds("c1")
		for key := range e.Dump() {
			assert.NotContains(t, key, "state/c2/", "a deleted credential has no state")
		}
	})
}

// Given a former active node with unstored state, its Cleanup does not overwrite what another
// node has stored since.
func TestFaultCleanupDoesNotOverwriteAnotherNodesState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 1)
		storage.Refuse.Store(true)
		e.Refused("creds/c0")
		storage.Refuse.Store(false)
		former := e.Backend

		e.Restart()
		e.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
		e.Write("config/kensho/c0", map[string]any{"refresh_token": engine.AnotherToken})
		e.Write("refresh/c0", nil) // the state is newer than the write
		stored, active := e.Dump(), e.Backend
		e.Backend = former
		e.Backend.InvalidateKey(t.Context(), "config/kensho/c0")
		e.Clean()
		assert.Equal(t, stored, e.Dump())
		e.Backend = active
		engine.Until(2, 0, 5)
		e.Creds("c0")
	})
}

func TestFaultCleanupStoresUnstoredStateWhileAVendorHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 20)
		storage.Refuse.Store(true)
		for i := range 19 {
			e.Refused(fmt.Sprintf("creds/c%d", i))
		}
		storage.Refuse.Store(false)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		var reader sync.WaitGroup
		reader.Go(func() { e.Refused("creds/c19") })
		time.Sleep(time.Millisecond)
		e.Clean()
		reader.Wait()
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		e.Restart()
		engine.Until(2, 0, 5)
		for i := range 20 {
			e.Creds(fmt.Sprintf("c%d", i))
		}
	})
}

// After Cleanup the engine starts no exchange and no sweep. Exchanges in flight are completed.
func TestFaultCleanupStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 40)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 500 * time.Millisecond})
		began := time.Now()
		var sweep sync.WaitGroup
		sweep.Go(func() { assert.NoError(t, e.Tick()) })
		time.Sleep(100 * time.Millisecond)
		calls := e.Exchanges()
		require.Equal(t, 16, e.Sim.InFlight(), "a sweep is in progress")
		e.Clean()
		sweep.Wait()
		assert.Less(t, time.Since(began), time.Second)
		asked := len(storage.Calls())
		require.NoError(t, e.Tick())
		assert.Len(t, storage.Calls(), asked, "the next sweep makes no storage call")
		served := 0
		for i := range 40 {
			switch _, status, message := e.Request(logical.ReadOperation, fmt.Sprintf("creds/c%d", i), nil); status {
			case http.StatusOK:
				served++
			default:
				assert.Equal(t, "the engine is being unloaded; try again", message)
			}
		}
		assert.Equal(t, 16, served, "late requests get the tokens of exchanges that were in flight")
		assert.Equal(t, calls, e.Exchanges())

		e.Restart()
		e.Clean()
		asked = len(storage.Calls())
		require.NoError(t, e.Tick())
		assert.Len(t, storage.Calls(), asked, "a sweep after Cleanup loads nothing")
	})
}

func TestFaultCleanupEndsAWaitForTheHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newBusyEngine(t, 1)
		e.Creds("c0")
		engine.Until(1, 59, 55)
		calls := e.Exchanges()
		var reader sync.WaitGroup
		reader.Go(func() {
			status, message := e.Refused("creds/c0")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Equal(t, "the engine is being unloaded; try again", message)
		})
		time.Sleep(time.Second)
		assert.Zero(t, e.Clean())
		reader.Wait()
		assert.Equal(t, calls, e.Exchanges())
	})
}

func TestFaultCleanupMayRunTwiceOrFirst(t *testing.T) {
	b, err := tokenbroker.Factory(t.Context(), &logical.BackendConfig{})
	require.NoError(t, err)
	b.Cleanup(t.Context())
	b.Cleanup(t.Context())
}
