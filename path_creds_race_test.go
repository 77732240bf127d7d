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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Guarantee 15: a role that the vendor rejects does not harm those who read meanwhile. The race
// detector fails this test if what both use is written without its lock.
func TestGuarantee15AScopeIsRejectedWhileOthersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Creds("prod")
		e.Sim.Behave(engine.RefuseScopeBy(engine.NerdScope, vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_scope"}`)))
		for range 50 {
			var readers sync.WaitGroup
			var isRejected atomic.Bool
			for range 2 {
				readers.Go(func() {
					for !isRejected.Load() {
						_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.Storage})
						assert.NoError(t, err)
					}
				})
			}
			calls := e.Exchanges()
			_, status, _ := e.Request(logical.ReadOperation, "creds/nerd", nil)
			isRejected.Store(true)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Equal(t, calls+1, e.Exchanges())
			readers.Wait()
			time.Sleep(6 * time.Minute) // until the vendor is asked about the scope again
			e.Creds("prod")
		}
	})
}
