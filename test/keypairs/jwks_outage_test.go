package keypairs_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// failing returns the faults of a storage that fails for key pairs: from the start, or from the first write on. The writes are
// carried out if isDone is set.
func failing(fromStart, isDone bool) *func(engine.StorageCall) engine.Fault {
	hasWritten := fromStart
	return new(func(c engine.StorageCall) engine.Fault {
		isKeypair := strings.HasPrefix(c.Key, "keypair/")
		hasWritten = hasWritten || isKeypair && c.Writes()
		if isKeypair && hasWritten {
			return engine.Fault{Err: engine.ErrStorage, Done: isDone && c.Writes()}
		}
		return engine.Fault{}
	})
}

// Every exchange of those who use the issuer would fail, although the keys are in memory.
func TestGuarantee4JWKSIsServedWhileStorageFailsAtARotation(t *testing.T) {
	for step, at := range map[string]time.Duration{"the next key is published": 48 * time.Minute, "it is activated": 58 * time.Minute, "the last one is withdrawn": 70 * time.Minute} {
		for name, faults := range map[string]*func(engine.StorageCall) engine.Fault{
			"it cannot be read": failing(true, false), "it cannot be written": failing(false, false), "the write succeeds and fails": failing(false, true),
		} {
			t.Run(step+": "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, nodes := engine.NewPublished(t, map[string]any{"rotation_period": "1h", "publish_ahead": "10m"})
					e.PassReading(at, time.Minute, nodes, func() {})
					before := published(e)
					storage := e.BreakStorage()
					storage.OnCall.Store(faults)
					for range 5 {
						time.Sleep(time.Minute)
						_ = e.Tick()
						assert.Equal(t, before, published(e))
					}
					storage.OnCall.Store(nil)
					e.PassReading(2*time.Hour, time.Minute, nodes, func() {})
					assert.NotContains(t, published(e), before[0], "the rotations go on")
				})
			})
		}
	}
}

// The operator may withdraw a key that has leaked.
func TestKeysThatAnOperatorMayHaveWithdrawnAreNotServed(t *testing.T) {
	for name, write := range map[string]map[string]any{
		"publish=false": {"publish": false}, "another pending pair": {"key_type": "ec-p256"}, "a shorter publish_ahead": {"publish_ahead": "1h"},
		"another issuer": {"issuer": "https://vault.example.com/v1/" + engine.MountPoint + "jwks/prod"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := engine.NewPublished(t, nil)
				e.Pending("prod", nil)
				published(e)
				storage := e.BreakStorage()
				storage.OnCall.Store(failing(false, true))
				_, status, _ := e.Request(logical.UpdateOperation, "keypair/prod", write)
				assert.Equal(t, http.StatusInternalServerError, status)
				_, status, message := e.Request(logical.ReadOperation, "jwks/prod", nil)
				assert.Equal(t, http.StatusServiceUnavailable, status)
				assert.Equal(t, "storage is unavailable; try again", message)
			})
		})
	}
}

func TestKeysThatAnotherNodeHasChangedAreNotServedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, nil)
		published(e)
		storage := e.BreakStorage()
		storage.OnCall.Store(failing(true, false))
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		_, status, _ := e.Request(logical.ReadOperation, "jwks/prod", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
	})
}
