package tokenbroker_test

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
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newBusyEngine has credentials whose tokens are dead, at a vendor who replaces refresh
// tokens, and storage that can be put into a mood.
func newBusyEngine(t *testing.T, credentials int) (*engine, *moodyStorage) {
	t.Helper()
	e := newEngine(t)
	e.sim.Behave(vendorsim.Conduct{Rotate: true})
	for i := range credentials {
		token := fmt.Sprintf("refresh-token-%d", i)
		e.sim.AddRefreshToken("link-streaming", token)
		e.write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token, "request_timeout": 5})
		e.creds(fmt.Sprintf("c%d", i))
	}
	until(1, 0, 5)
	return e, e.moody()
}

func TestFaultCleanWaitsForAnExchangeThatIsAboutToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newBusyEngine(t, 20)
		e.sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 300 * time.Millisecond})
		var readers sync.WaitGroup
		tokens := make([]any, 20)
		for i := range tokens {
			readers.Go(func() { tokens[i] = e.creds(fmt.Sprintf("c%d", i)).Data["access_token"] })
		}
		time.Sleep(time.Millisecond)
		assert.Equal(t, 299*time.Millisecond, e.clean())
		stored := fmt.Sprint(e.dump())
		readers.Wait()
		for _, token := range tokens {
			assert.Contains(t, stored, token, "when Clean returns, what the vendor answered is in storage")
		}
		e.restart()
		until(2, 0, 5)
		for i := range tokens {
			e.creds(fmt.Sprintf("c%d", i))
		}
	})
}

func TestFaultCleanLeavesAVendorAloneWhoHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		e, _ := newBusyEngine(t, 20)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		calls := e.exchanges()
		var readers sync.WaitGroup
		for i := range 20 {
			for range 3 {
				readers.Go(func() { e.refused(fmt.Sprintf("creds/c%d", i)) })
			}
		}
		time.Sleep(time.Millisecond)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, status, _ := e.request(logical.UpdateOperation, "refresh/c0", nil)
			assert.Equal(t, http.StatusServiceUnavailable, status)
		})
		time.Sleep(time.Millisecond)
		began := time.Now()
		waiting.Go(func() { e.clean() })
		waiting.Wait()
		assert.Less(t, time.Since(began), time.Second, "nor does anybody else wait for them")
		assert.Equal(t, 20, e.sim.InFlight(), "an exchange is not broken off: it may bring a refresh token")
		time.Sleep(5*time.Second - 900*time.Millisecond)
		synctest.Wait()
		require.NoError(t, goleak.Find(before), "no goroutine outlives its request_timeout")
		readers.Wait()
		assert.Equal(t, calls+20, e.exchanges())
	})
}

func TestFaultCleanEndsASweep(t *testing.T) {
	for _, credentials := range []int{5, 40} { // fewer than a sweep has under way at once, and more
		synctest.Test(t, func(t *testing.T) {
			e, _ := newBusyEngine(t, credentials)
			e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
			began := time.Now()
			var sweep sync.WaitGroup
			sweep.Go(func() { assert.NoError(t, e.tick()) })
			time.Sleep(time.Millisecond)
			e.clean()
			sweep.Wait()
			assert.Less(t, time.Since(began), time.Second)
			assert.LessOrEqual(t, e.sim.MostInFlight(), 16)
		})
	}
}

func TestFaultCleanEndsASweepThatHasMuchToLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 40)
		e.restart()
		meet := func(storageCall) mood { return mood{wait: 100 * time.Millisecond} }
		storage.meet.Store(&meet)
		began := time.Now()
		var sweep sync.WaitGroup
		sweep.Go(func() { assert.NoError(t, e.tick()) })
		time.Sleep(time.Second)
		e.clean()
		sweep.Wait()
		assert.Less(t, time.Since(began), 2*time.Second)
	})
}

func TestFaultCleanDoesNotWaitForStorageThatHangs(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, storage := newBusyEngine(t, 4)
			storage.refuse.Store(true)
			e.refused("creds/c3")
			meet := func(c storageCall) mood {
				if c.writes() {
					return mood{wait: hung, deaf: deaf}
				}
				return mood{}
			}
			storage.meet.Store(&meet)
			var readers sync.WaitGroup
			for i := range 3 {
				readers.Go(func() { e.request(logical.ReadOperation, fmt.Sprintf("creds/c%d", i), nil) })
			}
			time.Sleep(time.Second)
			e.clean()
			readers.Wait()
			storage.settle()
			synctest.Wait()
		})
	}
}

func TestFaultCleanStoresWhatStorageHasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 3)
		storage.refuse.Store(true)
		for i := range 3 {
			e.refused(fmt.Sprintf("creds/c%d", i))
		}
		storage.refuse.Store(false)
		_, status, _ := e.request(logical.DeleteOperation, "config/kensho/c2", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Zero(t, e.clean())
		e.restart()
		until(2, 0, 5)
		e.creds("c0")
		e.creds("c1")
		for key := range e.dump() {
			assert.NotContains(t, key, "state/c2/", "what was deleted does not come back")
		}
	})
}

func TestFaultCleanDoesNotStoreWhatAnotherNodeHasReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 1)
		storage.refuse.Store(true)
		e.refused("creds/c0")
		storage.refuse.Store(false)
		former := e.backend

		e.restart()
		e.sim.AddRefreshToken("link-streaming", anotherToken)
		e.write("config/kensho/c0", map[string]any{"refresh_token": anotherToken})
		e.write("refresh/c0", nil) // and its state is not that of the write
		stored, active := e.dump(), e.backend
		e.backend = former
		e.backend.InvalidateKey(t.Context(), "config/kensho/c0")
		e.clean()
		assert.Equal(t, stored, e.dump())
		e.backend = active
		until(2, 0, 5)
		e.creds("c0")
	})
}

func TestFaultCleanStoresWhatStorageHasRefusedThoughAVendorHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 20)
		storage.refuse.Store(true)
		for i := range 19 {
			e.refused(fmt.Sprintf("creds/c%d", i))
		}
		storage.refuse.Store(false)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		var reader sync.WaitGroup
		reader.Go(func() { e.refused("creds/c19") })
		time.Sleep(time.Millisecond)
		e.clean()
		reader.Wait()
		e.sim.Behave(vendorsim.Conduct{Rotate: true})
		e.restart()
		until(2, 0, 5)
		for i := range 20 {
			e.creds(fmt.Sprintf("c%d", i))
		}
	})
}

func TestFaultCleanBeginsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newBusyEngine(t, 40)
		e.sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 500 * time.Millisecond})
		began := time.Now()
		var sweep sync.WaitGroup
		sweep.Go(func() { assert.NoError(t, e.tick()) })
		time.Sleep(100 * time.Millisecond)
		calls := e.exchanges()
		require.Equal(t, 16, e.sim.InFlight(), "a sweep is under way")
		e.clean()
		sweep.Wait()
		assert.Less(t, time.Since(began), time.Second)
		asked := len(storage.calls())
		require.NoError(t, e.tick())
		assert.Len(t, storage.calls(), asked, "nor does the next sweep do anything")
		served := 0
		for i := range 40 {
			switch _, status, message := e.request(logical.ReadOperation, fmt.Sprintf("creds/c%d", i), nil); status {
			case http.StatusOK:
				served++
			default:
				assert.Equal(t, "the engine is being unloaded", message)
			}
		}
		assert.Equal(t, 16, served, "what was under way is there for requests that are late")
		assert.Equal(t, calls, e.exchanges())

		e.restart()
		e.clean()
		asked = len(storage.calls())
		require.NoError(t, e.tick())
		assert.Len(t, storage.calls(), asked, "nor does it look for what there is to do")
	})
}

func TestFaultCleanEndsAWaitForTheFullHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newBusyEngine(t, 1)
		e.creds("c0")
		until(1, 59, 55)
		calls := e.exchanges()
		var reader sync.WaitGroup
		reader.Go(func() {
			status, message := e.refused("creds/c0")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Equal(t, "the engine is being unloaded", message)
		})
		time.Sleep(time.Second)
		assert.Zero(t, e.clean())
		reader.Wait()
		assert.Equal(t, calls, e.exchanges())
	})
}

func TestFaultCleanMayComeTwiceOrBeforeAnything(t *testing.T) {
	b, err := tokenbroker.Factory(t.Context(), &logical.BackendConfig{})
	require.NoError(t, err)
	b.Cleanup(t.Context())
	b.Cleanup(t.Context())
}
