package dedicated_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestAnOutageDoesNotInvalidateDedicatedRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/found", engine.IssuerClient())
		e.Write("roles/own", map[string]any{"config": "found", "dedicated": true})
		e.Write("roles/other", map[string]any{"config": "found", "dedicated": true})
		e.Sim.Behave(engine.MetadataDown())
		calls := e.Exchanges()
		resp, status, message := e.Request(logical.UpdateOperation, "config/oauth2/found", map[string]any{"request_timeout": "20s", "verify": false})
		require.Equal(t, http.StatusOK, status, message)
		if resp != nil {
			assert.Empty(t, resp.Warnings)
		}
		assert.Equal(t, calls+1, e.Exchanges(), "one call fetches the metadata for all roles")

		_, status, message = e.Request(logical.UpdateOperation, "roles/third", map[string]any{"config": "found", "dedicated": true})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "the vendor is unavailable: dedicated: auth.example.com: 503 Service Unavailable: down")
	})
}

func TestReadersThatKeepTheirLeasesAreNeverRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for range 48 { // as often as Vault Agent reads at most
			for range 3 {
				lease := e.Creds("mine")
				time.AfterFunc(lease.Secret.TTL*85/100-time.Second, func() { assert.NoError(t, e.Revoke(lease)) })
			}
			time.Sleep(51 * time.Minute)
		}
	})
}

func TestForceRevokedLeasesCanBeForgotten(t *testing.T) {
	for name, forget := range map[string]func(*engine.Engine){
		"by a field": func(e *engine.Engine) { e.Write("roles/mine", map[string]any{"forget_leases": true}) },
		"by deleting the role": func(e *engine.Engine) {
			_, status, _ := e.Request(logical.DeleteOperation, "roles/mine", nil)
			require.Equal(e.T, http.StatusOK, status)
			e.Write("roles/mine", map[string]any{"config": "api", "scope": "read", "dedicated": true, "max_leases": 3})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				leases := []*logical.Response{e.Creds("mine"), e.Creds("mine"), e.Creds("mine")}
				e.ForceRevoke(leases[:2]...)
				status, message := e.Refused("creds/mine")
				assert.Equal(t, http.StatusTooManyRequests, status)
				assert.Contains(t, message, "forget_leases=true")
				e.Write("roles/mine", map[string]any{"ttl": "30m"})
				e.Refused("creds/mine") // a write of another field does not forget them

				forget(e)
				assert.NotContains(t, e.Read("roles/mine").Data, "forget_leases")
				for range 3 {
					e.Creds("mine")
				}
				e.Refused("creds/mine")

				require.NoError(t, e.Revoke(leases[2]), "a forgotten lease can still be revoked")
				assert.False(t, e.Sim.Accepts(engine.TokenOf(leases[2])), "which revokes its token")
				time.Sleep(26 * time.Hour)
				e.Creds("mine")
				assert.Len(t, e.Leased(), 1, "the entries of forgotten leases are deleted")
			})
		})
	}
}

// The server's clock may jump ahead, so that a token looks expired, and be set back later. The
// entry of its lease must still exist then.
func TestAClockStepDeletesNoLeaseOfAValidToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Creds("mine")
		key := e.Leased()[0]
		time.Sleep(20 * time.Hour)
		for range 3 {
			e.Creds("mine")
			time.Sleep(time.Hour)
		}
		assert.Contains(t, e.Leased(), key)
	})
}
