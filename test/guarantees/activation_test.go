package guarantees_test

import (
	"net/http"
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

// Given a crash, or storage that refuses writes, after any number of writes, the pending key
// pair is activated for all credentials or for none. Either way the credentials still work.
func TestGuarantee10ActivationIsAtomicAcrossCrashes(t *testing.T) {
	for _, restart := range []bool{true, false} {
		done := 0
		for writes := range 8 {
			synctest.Test(t, func(t *testing.T) {
				e, pending := engine.NewRotation(t)
				storage := e.BreakStorage()
				older := e.Tokens()
				e.Register(engine.NextClientID, pending.Data["public_key"])
				storage.FailWritesAfter(writes)
				status, message := e.Activate(map[string]any{"client_id": engine.NextClientID})
				if restart {
					e.Restart()
				}
				storage.WritesLeft.Store(nil)

				isDone := e.Read("keypair/prod").Data["key_id"] == pending.Data["key_id"]
				assert.Equal(t, isDone, status == http.StatusOK, "%d writes: %s", writes, message)
				id := engine.ClientID
				if isDone {
					done++
					id = engine.NextClientID
					e.Sim.RevokeCredential(engine.ClientID)
				} else {
					assert.Equal(t, http.StatusInternalServerError, status)
				}
				for name, token := range e.Tokens() {
					assert.Equal(t, id, e.Read("config/kensho/" + name).Data["client_id"], "%d writes", writes)
					assert.Equal(t, isDone, older[name] != token, "%d writes", writes)
				}
				engine.Until(2, 0, 0)
				e.Restart()
				e.Tokens()

				// State of the interrupted activation must not return.
				e.Sim.AddClient("0oa-client-of-the-write", &engine.PrivateKey().PublicKey, "")
				e.Write("config/kensho/scribe", map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM(), "client_id": "0oa-client-of-the-write"})
				e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
				e.Restart()
				assert.Equal(t, 20, e.Read("config/kensho/prod").Data["request_timeout"])
				engine.Until(4, 0, 0)
				e.Tokens()
				if !isDone {
					status, message = e.Activate(map[string]any{"client_id": engine.NextClientID})
					require.Equal(t, http.StatusOK, status, message)
				}
				e.Register(engine.ClientID, e.Pending("prod", nil).Data["public_key"])
				status, message = e.Activate(map[string]any{"client_id": engine.ClientID})
				require.Equal(t, http.StatusOK, status, message)
				e.Sim.RevokeCredential(engine.NextClientID)
				engine.Until(6, 0, 0)
				e.Tokens()
			})
		}
		assert.Equal(t, 7, done, "only the crash before the first write undoes the activation")
	}
}

// Given an activation interrupted after its first write, the next one can still be made.
func TestActivationsInterruptedByCrashesCanFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		storage := e.BreakStorage()
		for i, id := range []string{"0oa-2", "0oa-3", "0oa-4"} {
			e.Register(id, e.Pending("prod", nil).Data["public_key"])
			storage.FailWritesAfter(1)
			status, message := e.Activate(map[string]any{"client_id": id})
			require.Equal(t, http.StatusOK, status, message)
			e.Restart()
			storage.WritesLeft.Store(nil)
			assert.Equal(t, id, e.Read("config/kensho/prod").Data["client_id"])
			engine.Until(2*(i+1), 0, 0)
			e.Creds("prod")
		}
	})
}

func TestCompletedActivationLeavesNoSecretInStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := engine.NewRotation(t)
		e.Register(engine.ClientID, pending.Data["public_key"])
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.NotContains(t, e.Dump()["keypair/prod"], "access_token")
		for _, path := range []string{"config/kensho/prod", "config/kensho/scribe", "keypair/prod"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		engine.AssertStorageEmpty(t, e)
	})
}

// Given an interrupted activation and a delete that fails once, a retried delete removes the
// credential's secrets from the key pair's entry.
func TestRetriedDeleteLeavesNoSecretInTheKeyPairEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := engine.NewRotation(t)
		e.Register(engine.NextClientID, pending.Data["public_key"])
		storage := e.BreakStorage()
		storage.FailWritesAfter(1) // only the key pair's entry gets the new state
		status, message := e.Activate(map[string]any{"client_id": engine.NextClientID})
		require.Equal(t, http.StatusOK, status, message)
		storage.WritesLeft.Store(nil)
		var met atomic.Bool
		meet := func(c engine.StorageCall) engine.Fault {
			if c.Key == "config/kensho/scribe" && !met.Swap(true) {
				return engine.Fault{Err: engine.ErrStorage}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&meet)
		_, status, _ = e.Request(logical.DeleteOperation, "config/kensho/scribe", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		_, status, _ = e.Request(logical.DeleteOperation, "config/kensho/scribe", nil)
		require.Equal(t, http.StatusOK, status)
		assert.NotContains(t, e.Dump()["keypair/prod"], `"scribe":`)
	})
}

// Given a slow exchange in flight, an activation replaces the token at once, and the late
// answer does not bring the older token back.
func TestGuarantee8ActivationTakesEffectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := engine.NewRotation(t)
		engine.Until(0, 50, 0) // the token is due for renewal
		e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var older *logical.Response
		var reader sync.WaitGroup
		reader.Go(func() { older = e.Read("creds/prod") })
		time.Sleep(time.Second)
		e.Register(engine.NextClientID, pending.Data["public_key"])
		status, message := e.Activate(map[string]any{"client_id": engine.NextClientID})
		require.Equal(t, http.StatusOK, status, message)
		calls := e.Exchanges()
		newer := e.Creds("prod").Data["access_token"]
		reader.Wait()
		assert.NotEqual(t, older.Data["access_token"], newer)
		assert.Equal(t, calls, e.Exchanges())
		e.Restart()
		assert.Equal(t, newer, e.Creds("prod").Data["access_token"])
	})
}

func TestActivationOnAnotherNodeIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := engine.NewRotation(t)
		e.Tokens()
		standby := e.Backend
		e.Restart() // becomes the active node, on the same storage
		storage := e.BreakStorage()
		e.Register(engine.ClientID, pending.Data["public_key"])
		storage.FailWritesAfter(1) // only the key pair's entry is written
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		newer := e.Tokens()

		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		assert.Equal(t, newer, e.Tokens())
	})
}
