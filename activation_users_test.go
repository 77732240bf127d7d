package tokenbroker_test

import (
	"crypto"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A key pair of many credentials, with a slow vendor: the activation takes longer than
// any one renewal may.
func TestALongActivationThatFailsLeavesAllAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 24
		e := newEngine(t)
		var configs []string
		for i := range users {
			configs = append(configs, fmt.Sprintf("c%02d", i))
		}
		made := e.keypair("prod", map[string]any{"key_type": "ec-p256", "allowed_configs": configs}).Data
		keys := map[string]crypto.PublicKey{made["key_id"].(string): publicKey(t, made["public_key"])}
		e.sim.AddOAuthClient(signingClient(keys))
		for _, name := range configs {
			e.sim.AddOAuthRefreshToken(signingClient(keys), "refresh-token-of-"+name, "read")
			e.write("config/oauth2/"+name, map[string]any{
				"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "refresh_token": "refresh-token-of-" + name,
				"private_key_source": "generated", "keypair": "prod",
			})
		}
		pending := e.pending("prod", nil).Data
		keys[pending["key_id"].(string)] = publicKey(t, pending["public_key"])
		until(0, 50, 0) // when the tokens are due for fresher ones
		calls := e.exchanges()
		e.sim.Behave(vendorsim.Conduct{Latency: 9 * time.Second, Fault: func(*http.Request) http.HandlerFunc {
			if e.exchanges() < calls+users {
				return nil
			}
			return vendorsim.Answer(http.StatusForbidden, `{"error":"access_denied"}`)
		}})
		var operator sync.WaitGroup
		operator.Go(func() {
			asked := time.Now()
			status, message := e.activate(nil)
			assert.Equal(t, http.StatusBadRequest, status, message)
			assert.Greater(t, time.Since(asked), 3*time.Minute)
		})
		time.Sleep(time.Minute)
		for range 3 {
			asked := time.Now()
			e.read("creds/c00")
			assert.Less(t, time.Since(asked), time.Second, "who has a good token does not wait")
		}
		operator.Wait()
		e.sim.Behave(vendorsim.Conduct{})
		e.creds("c00")
		assert.Equal(t, "ok", e.read("status/c00").Data["state"])
		e.restart()
		until(2, 0, 0)
		e.creds("c00")
	})
}

func TestADeletedCredentialLeavesNothingInItsKeyPair(t *testing.T) {
	for name, after := range map[string]func(*engine){
		"that is deleted":          func(*engine) {},
		"that gets a pending pair": func(e *engine) { e.pending("prod", nil) },
		"whose other user is mended": func(e *engine) {
			e.write("config/oauth2/b", map[string]any{"request_timeout": 20, "verify": true})
			e.pending("prod", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newSigningEngine(t)
				storage := e.moody()
				storage.dieAfter(4) // the state of a, and the switch, with a fence before each exchange
				status, message := e.activate(nil)
				require.Equal(t, http.StatusOK, status, message)
				storage.lastWrites.Store(nil)
				require.Contains(t, e.dump()["keypair/prod"], "refresh-token-of-a")
				_, status, message = e.request(logical.DeleteOperation, "config/oauth2/a", nil)
				require.Equal(t, http.StatusOK, status, message)
				after(e)
				assert.NotContains(t, e.dump()["keypair/prod"], "refresh-token-of-a")
				until(2, 0, 0)
				e.restart()
				e.creds("b")
			})
		})
	}
}

func TestADeletionThatStorageDoesNotCompleteLeavesNothingInTheKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSigningEngine(t)
		storage := e.moody()
		storage.dieAfter(4) // the state of a, and the switch, with a fence before each exchange
		status, message := e.activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		storage.lastWrites.Store(nil)
		meet := func(c storageCall) mood {
			if c.op == "delete" && strings.HasPrefix(c.key, "state/a/") {
				return mood{err: errStorage}
			}
			return mood{}
		}
		storage.meet.Store(&meet)
		_, status, _ = e.request(logical.DeleteOperation, "config/oauth2/a", nil)
		require.Equal(t, http.StatusInternalServerError, status)
		storage.meet.Store(nil)
		_, status, _ = e.request(logical.DeleteOperation, "config/oauth2/a", nil)
		require.Equal(t, http.StatusOK, status)
		assert.NotContains(t, e.dump()["keypair/prod"], "refresh-token-of-a")
	})
}

func TestACredentialThatIsWrittenAfterItsActivationLeavesNothingInItsKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSigningEngine(t)
		storage := e.moody()
		storage.dieAfter(4) // the state of a, and the switch, with a fence before each exchange
		status, message := e.activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		storage.lastWrites.Store(nil)
		e.write("config/oauth2/a", map[string]any{"request_timeout": 20, "verify": true})
		e.pending("prod", nil)
		assert.NotContains(t, e.dump()["keypair/prod"], "refresh-token-of-a")
		assert.Contains(t, e.dump()["keypair/prod"], "refresh-token-of-b", "which its own entry does not have yet")
		until(2, 0, 0)
		e.restart()
		e.creds("a")
		e.creds("b")
	})
}

func TestAnActivatedKeyIDGoesToThoseThatHaveOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const issuer = "https://other.example.com"
		e := newEngine(t)
		e.sim.AddOAuthServer(vendorsim.OAuthServer{Issuer: issuer, TokenURL: issuer + "/token"})
		made := e.keypair("prod", map[string]any{
			"key_type": "ec-p256", "allowed_configs": "a,b",
			"allowed_hosts": []string{provider.Host(issuer), provider.Host(vendorsim.OAuthTokenURL)},
		}).Data
		byName := map[string]crypto.PublicKey{"first": publicKey(t, made["public_key"])}
		byThumbprint := map[string]crypto.PublicKey{made["key_id"].(string): publicKey(t, made["public_key"])}
		e.sim.AddOAuthClient(signingClient(byName))
		other := signingClient(byThumbprint)
		other.Issuer = issuer
		e.sim.AddOAuthClient(other)
		fields := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "private_key_source": "generated", "keypair": "prod"}
		fields["key_id"] = "first"
		e.write("config/oauth2/a", fields)
		delete(fields, "key_id")
		fields["token_url"] = issuer + "/token"
		e.write("config/oauth2/b", fields)

		pending := e.pending("prod", nil).Data
		byName["second"] = publicKey(t, pending["public_key"])
		byThumbprint[pending["key_id"].(string)] = publicKey(t, pending["public_key"])
		status, message := e.activate(map[string]any{"key_id": "second"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "second", e.read("config/oauth2/a").Data["key_id"])
		assert.NotContains(t, e.read("config/oauth2/b").Data, "key_id")
	})
}

func TestAnActivationIsRefusedAFieldThatWouldGoToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.keypair("prod", nil)
		e.pending("prod", nil)
		for _, field := range []string{"client_id", "key_id"} {
			status, message := e.activate(map[string]any{field: "x"})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, field+": is for the credentials that use the key pair, and none does")
		}
		status, message := e.activate(nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

func TestADamagedCredentialOfAnotherProviderIsNoMatterToKeyPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newGeneratedEngine(t)
		e.damage("config/sitecore/stranger")
		e.pending("prod", nil)
	})
}

func TestAPendingPairIsNotBlamedForAnotherFieldOfItsUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newGeneratedEngine(t)
		entry, err := e.storage.Get(t.Context(), "config/kensho/prod")
		require.NoError(t, err)
		var stored map[string]any
		require.NoError(t, entry.DecodeJSON(&stored))
		stored["fields"].(map[string]any)["ca_cert"] = "as an earlier version took it"
		entry, err = logical.StorageEntryJSON("config/kensho/prod", stored)
		require.NoError(t, err)
		require.NoError(t, e.storage.Put(t.Context(), entry))
		e.pending("prod", nil)
		_, status, message := e.request(logical.UpdateOperation, "keypair/prod", map[string]any{"key_type": "ec-p256"})
		assert.Equal(t, http.StatusOK, status, message)
	})
}
