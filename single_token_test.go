package tokenbroker_test

import (
	"crypto"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newSingleEngine has two credentials of a vendor who has one token of a client at a
// time, and their key pair, whose successor he knows.
func newSingleEngine(t *testing.T) (*engine, *moodyStorage) {
	t.Helper()
	e := newEngine(t)
	e.sim.Behave(singleToken())
	made := e.keypair("prod", map[string]any{"key_type": "ec-p256", "allowed_configs": "a,b"}).Data
	keys := map[string]crypto.PublicKey{made["key_id"].(string): publicKey(t, made["public_key"])}
	for _, name := range []string{"a", "b"} {
		client := signingClient(keys)
		client.ID = "client-of-" + name
		e.sim.AddOAuthClient(client)
		e.write("config/oauth2/"+name, map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": client.ID, "private_key_source": "generated", "keypair": "prod", "single_token": true,
		})
	}
	pending := e.pending("prod", nil).Data
	keys[pending["key_id"].(string)] = publicKey(t, pending["public_key"])
	return e, e.moody()
}

// Promise 1, with a vendor who ends a token when he issues the next.
func TestGuarantee1ATokenThatAFailedWriteHasEndedIsNotServed(t *testing.T) {
	for name, write := range map[string]func(*engine, *moodyStorage) (status int){
		"a config write that storage refuses": func(e *engine, s *moodyStorage) int {
			s.dieAfter(0)
			_, status, _ := e.request(logical.UpdateOperation, "config/oauth2/a", map[string]any{"request_timeout": 20, "verify": true})
			return status
		},
		"an activation that storage refuses": func(e *engine, s *moodyStorage) int {
			s.dieAfter(0)
			status, _ := e.activate(nil)
			return status
		},
		"an activation that another credential's vendor refuses": func(e *engine, _ *moodyStorage) int {
			calls, conduct := e.exchanges(), singleToken()
			conduct.Fault = func(*http.Request) http.HandlerFunc {
				if e.exchanges() == calls+1 {
					return nil
				}
				return vendorsim.Answer(http.StatusForbidden, `{"error":"access_denied"}`)
			}
			e.sim.Behave(conduct)
			status, _ := e.activate(nil)
			return status
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, storage := newSingleEngine(t)
				older := tokenOf(e.creds("a"))
				require.NotEqual(t, http.StatusOK, write(e, storage))
				require.False(t, e.sim.Accepts(older))
				e.sim.Behave(singleToken())
				if resp, status, _ := e.request(logical.ReadOperation, "creds/a", nil); status == http.StatusOK {
					assert.NotEqual(t, older, tokenOf(resp))
				}
				storage.lastWrites.Store(nil)
				time.Sleep(10 * time.Second)
				assert.True(t, e.sim.Accepts(tokenOf(e.creds("a"))))
				e.creds("b")
			})
		})
	}
}
