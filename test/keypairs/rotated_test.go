package keypairs_test

import (
	"crypto"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The first write that uses a key pair stores both entries. Whichever of them storage refuses, the
// operator has only the refresh token that the vendor has rotated.
func TestARefreshTokenRotatedByAWriteThatIsNotStoredIsUsedByTheSameWrite(t *testing.T) {
	for _, refused := range []string{"keypair/api", "config/oauth2/api"} {
		t.Run(refused, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				made := e.Keypair("api", map[string]any{"key_type": "ec-p256"}).Data
				client := engine.SigningClient(map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])})
				e.Sim.AddOAuthClient(client)
				e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read")
				fields := map[string]any{
					"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "refresh_token": engine.RefreshToken, "private_key_source": "generated",
				}
				storage := e.BreakStorage()
				storage.OnCall.Store(new(func(call engine.StorageCall) (fault engine.Fault) {
					if call.Op == "put" && strings.HasPrefix(call.Key, refused) {
						fault.Err = engine.ErrStorage
					}
					return fault
				}))
				_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/api", fields)
				assert.Equal(t, http.StatusInternalServerError, status)
				assert.Contains(t, message, "the new one is only in memory; send the same write again within an hour")

				storage.OnCall.Store(nil)
				e.Write("config/oauth2/api", fields)
				e.Creds("api")
			})
		})
	}
}
