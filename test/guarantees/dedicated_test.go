package guarantees_test

import (
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee4DedicatedReadersBackOffWhileMetadataAreMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/found", engine.IssuerClient())
		e.Write("roles/own", map[string]any{"config": "found", "dedicated": true})
		e.Restart()
		e.Sim.Behave(engine.MetadataDown())
		calls := e.Exchanges()
		for range 5 {
			status, message := e.Refused("creds/own")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Contains(t, message, "503 Service Unavailable: down; next attempt at")
		}
		assert.Equal(t, calls+1, e.Exchanges(), "one attempt for all reads")
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(2 * time.Second)
		e.Creds("own")
		assert.Equal(t, "ok", e.Read("status/found").Data["state"])
	})
}

func TestGuarantee16TokensOfADedicatedRoleAreBoundedWithinALifetime(t *testing.T) {
	for name, test := range map[string]struct {
		fields map[string]any
		limit  int
	}{
		"one lease":     {map[string]any{"max_leases": 1}, 10},
		"ten leases":    {map[string]any{"max_leases": 10}, 40},
		"no limit":      {map[string]any{"max_leases": 0}, 100},
		"two exchanges": {map[string]any{"max_leases": 1, "max_exchanges": 2}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/mine", test.fields)
				read := func() (status int, message string) {
					resp, status, message := e.Request(logical.ReadOperation, "creds/mine", nil)
					if status == http.StatusOK {
						require.NoError(t, e.Revoke(resp)) // as a client does that logs in, reads, and revokes its own Vault token
					}
					return status, message
				}
				for range test.limit {
					status, message := read()
					require.Equal(t, http.StatusOK, status, message)
				}
				calls := e.Exchanges()
				for range 3 {
					status, message := read()
					assert.Equal(t, http.StatusTooManyRequests, status)
					assert.Contains(t, message, "tokens have been exchanged within the lifetime of one (1h0m0s); the next exchange is possible at ")
					assert.Contains(t, message, "max_exchanges")
				}
				assert.Equal(t, calls, e.Exchanges(), "the vendor is not called")
				e.Creds("api")

				time.Sleep(time.Hour/time.Duration(test.limit) + time.Second)
				status, message := read()
				require.Equal(t, http.StatusOK, status, message)
				status, _ = read()
				assert.Equal(t, http.StatusTooManyRequests, status)
				e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})
			})
		})
	}
}

func TestGuarantee5ARejectedDedicatedExchangeRejectsTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(401, `{"error":"invalid_client"}`))})
		status, _ := e.Refused("creds/mine")
		assert.Equal(t, http.StatusBadRequest, status)
		data := e.Read("status/api").Data
		assert.Equal(t, 1, data["consecutive_failures"])
		assert.NotContains(t, data, "dedicated_roles")
	})
}

// max_exchanges counts tokens. A failed exchange may be repeated when the outage is over
// (guarantee 16).
func TestGuarantee16FailedExchangesDoNotCountAgainstADedicatedRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/mine", map[string]any{"max_leases": 3, "max_exchanges": 5})
		require.NoError(t, e.Revoke(e.Creds("mine")))
		time.Sleep(2 * time.Hour)
		outage := engine.Down()
		outage.Latency = time.Second
		e.Sim.Behave(outage)
		calls := e.Exchanges()
		for range 30 {
			e.Refused("creds/mine")
			time.Sleep(time.Minute)
		}
		assert.Greater(t, e.Exchanges(), calls+5)
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		for range 5 {
			require.NoError(t, e.Revoke(e.Creds("mine")))
		}
		status, _ := e.Refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
	})
}

func TestGuarantee8ACredentialWhoseDedicatedTokensCannotBeListedIsNotDeleted(t *testing.T) {
	for name, refused := range map[string]engine.StorageCall{
		"list of leases":      {Op: "list", Key: "lease/api/"},
		"read of a lease":     {Op: "get", Key: "lease/api/mine/"},
		"deletion of a lease": {Op: "delete", Key: "lease/api/mine/"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				lease := e.Creds("mine")
				e.Request(logical.DeleteOperation, "roles/mine", nil)
				storage := e.BreakStorage()
				meet := func(c engine.StorageCall) engine.Fault {
					if c.Op == refused.Op && strings.HasPrefix(c.Key, refused.Key) {
						return engine.Fault{Err: engine.ErrStorage}
					}
					return engine.Fault{}
				}
				storage.OnCall.Store(&meet)
				_, status, _ := e.Request(logical.DeleteOperation, "config/oauth2/api", nil)
				assert.Equal(t, http.StatusInternalServerError, status, "the token could not be revoked later")
				storage.OnCall.Store(nil)
				e.Creds("api")
				_, status, _ = e.Request(logical.DeleteOperation, "config/oauth2/api", nil)
				assert.Equal(t, http.StatusOK, status)
				assert.False(t, e.Sim.Accepts(engine.TokenOf(lease)))
				engine.AssertStorageEmpty(t, e)
			})
		})
	}
}

func TestGuarantee4DedicatedReadersBackOffDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Sim.Behave(engine.Down())
		for range 5 {
			status, message := e.Refused("creds/mine")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Contains(t, message, "next attempt at")
		}
		assert.Equal(t, 2, e.Exchanges(), "the verification, and one attempt")
		assert.Equal(t, "failed", e.Read("status/api").Data["state"], "readers of the role get no token")
	})
}

// The readers of a dedicated role do not block other users of the credential (guarantee 15).
func TestGuarantee15ManyDedicatedReadsAtASlowVendorBlockNoOtherRequest(t *testing.T) {
	fields := engine.SecretClient(true)
	for name, other := range map[string]struct {
		op   logical.Operation
		path string
		data map[string]any
	}{
		"a reader of the shared token": {logical.ReadOperation, "creds/api", nil},
		"a reader of another scope":    {logical.ReadOperation, "creds/ours", nil},
		"a write of the credential":    {logical.UpdateOperation, "config/oauth2/api", fields},
		"a refresh":                    {logical.UpdateOperation, "refresh/api", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/mine", map[string]any{"max_leases": 0})
				e.Write("roles/theirs", map[string]any{"config": "api", "dedicated": true})
				e.Write("roles/ours", map[string]any{"config": "api", "scope": "write"})
				time.Sleep(2 * time.Hour) // all tokens have expired
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
							assert.Equal(t, "roles/mine: 16 reads of the role wait for an exchange (the maximum); retry later", message)
						}
					})
				}
				synctest.Wait()
				mu.Lock()
				assert.Equal(t, map[int]int{http.StatusTooManyRequests: 84}, maps.Clone(statuses), "the excess is rejected at once")
				mu.Unlock()

				started := time.Now()
				readers.Go(func() {
					_, status, message := e.Request(logical.ReadOperation, "creds/theirs", nil)
					assert.Equal(t, http.StatusOK, status, "readers of another role share the queue: %s", message)
				})
				_, status, message := e.Request(other.op, other.path, other.data)
				assert.Equal(t, http.StatusOK, status, message)
				assert.LessOrEqual(t, time.Since(started), 3*latency, "the exchange in flight, the next one, and its own")
				readers.Wait()
				assert.Equal(t, map[int]int{http.StatusTooManyRequests: 84, http.StatusOK: 16}, statuses)
				e.Creds("mine")
			})
		})
	}
}
