package guarantees_test

import (
	"crypto"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newSingleTokenEngine mounts an engine with the credentials a and b, whose vendor keeps one
// valid token per client, and one key pair with a pending successor that the vendor knows.
func newSingleTokenEngine(t *testing.T) (*engine.Engine, *engine.FaultyStorage) {
	t.Helper()
	e := engine.New(t)
	e.Sim.Behave(engine.SingleToken())
	made := e.Keypair("prod", map[string]any{"key_type": "ec-p256", "allowed_configs": "a,b"}).Data
	keys := map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}
	for _, name := range []string{"a", "b"} {
		client := engine.SigningClient(keys)
		client.ID = "client-of-" + name
		e.Sim.AddOAuthClient(client)
		e.Write("config/oauth2/"+name, map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": client.ID, "private_key_source": "generated", "keypair": "prod", "single_token": true,
		})
	}
	pending := e.Pending("prod", nil).Data
	keys[pending["key_id"].(string)] = engine.PublicKey(t, pending["public_key"])
	return e, e.BreakStorage()
}

// Given a vendor that ends a token when it issues the next, the older token is not served
// after a write that made an exchange and then failed.
func TestGuarantee1TokenEndedByAFailedWriteIsNotServed(t *testing.T) {
	for name, write := range map[string]func(*engine.Engine, *engine.FaultyStorage) (status int){
		"a config write that storage refuses": func(e *engine.Engine, s *engine.FaultyStorage) int {
			s.FailWritesAfter(0)
			_, status, _ := e.Request(logical.UpdateOperation, "config/oauth2/a", map[string]any{"request_timeout": 20, "verify": true})
			return status
		},
		"an activation that storage refuses": func(e *engine.Engine, s *engine.FaultyStorage) int {
			s.FailWritesAfter(0)
			status, _ := e.Activate(nil)
			return status
		},
		"an activation that another credential's vendor refuses": func(e *engine.Engine, _ *engine.FaultyStorage) int {
			calls, conduct := e.Exchanges(), engine.SingleToken()
			conduct.Fault = func(*http.Request) http.HandlerFunc {
				if e.Exchanges() == calls+1 {
					return nil
				}
				return vendorsim.Answer(http.StatusForbidden, `{"error":"access_denied"}`)
			}
			e.Sim.Behave(conduct)
			status, _ := e.Activate(nil)
			return status
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, storage := newSingleTokenEngine(t)
				older := engine.TokenOf(e.Creds("a"))
				require.NotEqual(t, http.StatusOK, write(e, storage))
				require.False(t, e.Sim.Accepts(older))
				e.Sim.Behave(engine.SingleToken())
				if resp, status, _ := e.Request(logical.ReadOperation, "creds/a", nil); status == http.StatusOK {
					assert.NotEqual(t, older, engine.TokenOf(resp))
				}
				storage.WritesLeft.Store(nil)
				time.Sleep(10 * time.Second)
				assert.True(t, e.Sim.Accepts(engine.TokenOf(e.Creds("a"))))
				e.Creds("b")
			})
		})
	}
}
