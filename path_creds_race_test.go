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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Guarantee 15: a role that the vendor rejects does not harm those who read meanwhile. The race
// detector fails this test if what both use is written without its lock.
func TestGuarantee15AScopeIsRejectedWhileOthersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.creds("prod")
		e.sim.Behave(refuseScopeBy(nerdScope, vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_scope"}`)))
		for range 50 {
			var readers sync.WaitGroup
			var isRejected atomic.Bool
			for range 2 {
				readers.Go(func() {
					for !isRejected.Load() {
						_, err := e.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.storage})
						assert.NoError(t, err)
					}
				})
			}
			calls := e.exchanges()
			_, status, _ := e.request(logical.ReadOperation, "creds/nerd", nil)
			isRejected.Store(true)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Equal(t, calls+1, e.exchanges())
			readers.Wait()
			time.Sleep(6 * time.Minute) // until the vendor is asked about the scope again
			e.creds("prod")
		}
	})
}
