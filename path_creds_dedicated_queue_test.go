package tokenbroker_test

import (
	"maps"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Guarantee 15: the readers of a dedicated role do not keep others from the credential.
func TestGuarantee15ManyDedicatedReadsAtASlowVendorKeepNobodyElseFromTheCredential(t *testing.T) {
	fields := engine.SecretClient(true)
	for name, other := range map[string]struct {
		op   logical.Operation
		path string
		data map[string]any
	}{
		"a reader of the shared token": {logical.ReadOperation, "creds/api", nil},
		"a reader of another scope":    {logical.ReadOperation, "creds/ours", nil},
		"an operator who writes it":    {logical.UpdateOperation, "config/oauth2/api", fields},
		"an operator who refreshes it": {logical.UpdateOperation, "refresh/api", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/mine", map[string]any{"max_leases": 0})
				e.Write("roles/theirs", map[string]any{"config": "api", "dedicated": true})
				e.Write("roles/ours", map[string]any{"config": "api", "scope": "write"})
				time.Sleep(2 * time.Hour) // nobody has a token
				latency := 5 * time.Second
				e.Sim.Behave(vendorsim.Conduct{Latency: latency})
				var mu sync.Mutex
				statuses := map[int]int{}
				var readers sync.WaitGroup
				for range 100 {
					readers.Go(func() {
						_, status, message := e.Request(logical.ReadOperation, "creds/mine", nil)
						mu.Lock()
						defer mu.Unlock()
						statuses[status]++
						if status == http.StatusTooManyRequests {
							assert.Equal(t, "roles/mine: 16 reads already wait for a token of their own, and exchanges run one at a time; try again later", message)
						}
					})
				}
				synctest.Wait()
				mu.Lock()
				assert.Equal(t, map[int]int{http.StatusTooManyRequests: 84}, maps.Clone(statuses), "at once")
				mu.Unlock()

				began := time.Now()
				readers.Go(func() {
					_, status, message := e.Request(logical.ReadOperation, "creds/theirs", nil)
					assert.Equal(t, http.StatusOK, status, "another role's readers wait in the same queue: %s", message)
				})
				_, status, message := e.Request(other.op, other.path, other.data)
				assert.Equal(t, http.StatusOK, status, message)
				assert.LessOrEqual(t, time.Since(began), 3*latency, "one under way, one that is next, and its own")
				readers.Wait()
				assert.Equal(t, map[int]int{http.StatusTooManyRequests: 84, http.StatusOK: 16}, statuses)
				e.Creds("mine")
			})
		})
	}
}
