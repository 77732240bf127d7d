package tokenbroker_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Whenever the server is killed, or storage refuses to write from then on, the pair is
// activated for all credentials or for none, and can be used.
func TestGuarantee10AnActivationIsDoneOrNotDoneWheneverTheServerIsKilled(t *testing.T) {
	for _, restart := range []bool{true, false} {
		done := 0
		for writes := range 8 {
			synctest.Test(t, func(t *testing.T) {
				e, pending := newRotationEngine(t)
				storage := e.moody()
				older := e.tokens()
				e.register(nextClientID, pending.Data["public_key"])
				storage.dieAfter(writes)
				status, message := e.activate(map[string]any{"client_id": nextClientID})
				if restart {
					e.restart()
				}
				storage.lastWrites.Store(nil)

				isDone := e.read("keypair/prod").Data["key_id"] == pending.Data["key_id"]
				assert.Equal(t, isDone, status == http.StatusOK, "%d writes: %s", writes, message)
				id := clientID
				if isDone {
					done++
					id = nextClientID
					e.sim.RevokeCredential(clientID)
				} else {
					assert.Equal(t, http.StatusInternalServerError, status)
				}
				for name, token := range e.tokens() {
					assert.Equal(t, id, e.read("config/kensho/" + name).Data["client_id"], "%d writes", writes)
					assert.Equal(t, isDone, older[name] != token, "%d writes", writes)
				}
				until(2, 0, 0)
				e.restart()
				e.tokens()

				// What was left to be settled does not come back.
				e.sim.AddClient("0oa-of-another-life", &privateKey().PublicKey, "")
				e.write("config/kensho/scribe", map[string]any{"private_key_source": "", "keypair": "", "private_key": privateKeyPEM(), "client_id": "0oa-of-another-life"})
				e.write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
				e.restart()
				assert.Equal(t, 20, e.read("config/kensho/prod").Data["request_timeout"])
				until(4, 0, 0)
				e.tokens()
				if !isDone {
					status, message = e.activate(map[string]any{"client_id": nextClientID})
					require.Equal(t, http.StatusOK, status, message)
				}
				e.register(clientID, e.pending("prod", nil).Data["public_key"])
				status, message = e.activate(map[string]any{"client_id": clientID})
				require.Equal(t, http.StatusOK, status, message)
				e.sim.RevokeCredential(nextClientID)
				until(6, 0, 0)
				e.tokens()
			})
		}
		assert.Equal(t, 7, done, "all but the one before the switch")
	}
}

func TestActivationsThatWereKilledBeforeTheyWereSettledFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newGeneratedEngine(t)
		storage := e.moody()
		for i, id := range []string{"0oa-2", "0oa-3", "0oa-4"} {
			e.register(id, e.pending("prod", nil).Data["public_key"])
			storage.dieAfter(1)
			status, message := e.activate(map[string]any{"client_id": id})
			require.Equal(t, http.StatusOK, status, message)
			e.restart()
			storage.lastWrites.Store(nil)
			assert.Equal(t, id, e.read("config/kensho/prod").Data["client_id"])
			until(2*(i+1), 0, 0)
			e.creds("prod")
		}
	})
}

func TestAnActivationThatIsSettledLeavesNoSecretBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := newRotationEngine(t)
		e.register(clientID, pending.Data["public_key"])
		status, message := e.activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.NotContains(t, e.dump()["keypair/prod"], "access_token")
		for _, path := range []string{"config/kensho/prod", "config/kensho/scribe", "keypair/prod"} {
			_, status, message := e.request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		assertStorageEmpty(t, e)
	})
}

func TestADeletionThatCannotSeeTheKeyPairLeavesNoSecretBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := newRotationEngine(t)
		e.register(nextClientID, pending.Data["public_key"])
		storage := e.moody()
		storage.dieAfter(1) // so that the key pair's entry alone has what came of it
		status, message := e.activate(map[string]any{"client_id": nextClientID})
		require.Equal(t, http.StatusOK, status, message)
		storage.lastWrites.Store(nil)
		var met atomic.Bool
		meet := func(c storageCall) mood {
			if c.key == "config/kensho/scribe" && !met.Swap(true) {
				return mood{err: errStorage}
			}
			return mood{}
		}
		storage.meet.Store(&meet)
		_, status, _ = e.request(logical.DeleteOperation, "config/kensho/scribe", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		_, status, _ = e.request(logical.DeleteOperation, "config/kensho/scribe", nil)
		require.Equal(t, http.StatusOK, status)
		assert.NotContains(t, e.dump()["keypair/prod"], `"scribe":`)
	})
}

func TestGuarantee8AnActivationCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := newRotationEngine(t)
		until(0, 50, 0) // when the token is due for a fresher one
		e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var older *logical.Response
		var reader sync.WaitGroup
		reader.Go(func() { older = e.read("creds/prod") })
		time.Sleep(time.Second)
		e.register(nextClientID, pending.Data["public_key"])
		status, message := e.activate(map[string]any{"client_id": nextClientID})
		require.Equal(t, http.StatusOK, status, message)
		calls := e.exchanges()
		newer := e.creds("prod").Data["access_token"]
		reader.Wait()
		assert.NotEqual(t, older.Data["access_token"], newer)
		assert.Equal(t, calls, e.exchanges())
		e.restart()
		assert.Equal(t, newer, e.creds("prod").Data["access_token"])
	})
}

func TestAnActivationOnAnotherNodeIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := newRotationEngine(t)
		e.tokens()
		standby := e.backend
		e.restart() // the active node, on the same storage
		storage := e.moody()
		e.register(clientID, pending.Data["public_key"])
		storage.dieAfter(1) // the key pair's entry alone is written
		status, message := e.activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		newer := e.tokens()

		e.backend = standby
		e.backend.InvalidateKey(t.Context(), "keypair/prod")
		assert.Equal(t, newer, e.tokens())
	})
}
