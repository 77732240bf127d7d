package rotation_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// Given storage in which each read of a client's entry hangs, then the background work ends in the time that Vault has
// for it.
func TestGuarantee11AClientThatStorageDoesNotReturnDoesNotKeepTheSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		newClient(e, nil)
		e.Creds("app")
		storage := e.BreakStorage()
		meet := func(c engine.StorageCall) (f engine.Fault) {
			if strings.HasPrefix(c.Key, "client/") {
				f.Wait = 5 * time.Minute
			}
			return f
		}
		storage.OnCall.Store(&meet)
		began := time.Now()
		_ = e.Tick() // may report the failure of storage
		assert.LessOrEqual(t, time.Since(began), 90*time.Second)
		storage.OnCall.Store(nil)
		storage.Settle()
	})
}
