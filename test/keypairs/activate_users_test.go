package keypairs_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// With many credentials and a slow vendor, an activation takes longer than the time limit of
// a renewal.
func TestALongActivationThatFailsChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 24
		e := engine.New(t)
		var configs []string
		for i := range users {
			configs = append(configs, fmt.Sprintf("c%02d", i))
		}
		made := e.Keypair("prod", map[string]any{"key_type": "ec-p256", "allowed_configs": configs}).Data
		keys := map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}
		e.Sim.AddOAuthClient(engine.SigningClient(keys))
		for _, name := range configs {
			e.Sim.AddOAuthRefreshToken(engine.SigningClient(keys), "refresh-token-of-"+name, "read")
			e.Write("config/oauth2/"+name, map[string]any{
				"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "refresh_token": "refresh-token-of-" + name,
				"private_key_source": "generated", "keypair": "prod",
			})
		}
		pending := e.Pending("prod", nil).Data
		keys[pending["key_id"].(string)] = engine.PublicKey(t, pending["public_key"])
		engine.Until(0, 50, 0) // the tokens need renewal
		calls := e.Exchanges()
		e.Sim.Behave(vendorsim.Conduct{Latency: 9 * time.Second, Fault: func(*http.Request) http.HandlerFunc {
			if e.Exchanges() < calls+users {
				return nil
			}
			return vendorsim.Answer(http.StatusForbidden, `{"error":"access_denied"}`)
		}})
		var operator sync.WaitGroup
		operator.Go(func() {
			started := time.Now()
			status, message := e.Activate(nil)
			assert.Equal(t, http.StatusBadRequest, status, message)
			assert.Greater(t, time.Since(started), 3*time.Minute)
		})
		time.Sleep(time.Minute)
		for range 3 {
			started := time.Now()
			e.Read("creds/c00")
			assert.Less(t, time.Since(started), time.Second, "a reader of a valid token does not wait")
		}
		operator.Wait()
		e.Sim.Behave(vendorsim.Conduct{})
		e.Creds("c00")
		assert.Equal(t, "ok", e.Read("status/c00").Data["state"])
		e.Restart()
		engine.Until(2, 0, 0)
		e.Creds("c00")
	})
}

func TestADeletedCredentialLeavesNothingInTheKeyPair(t *testing.T) {
	for name, after := range map[string]func(*engine.Engine){
		"without another write":   func(*engine.Engine) {},
		"with a new pending pair": func(e *engine.Engine) { e.Pending("prod", nil) },
		"after a write of the other credential": func(e *engine.Engine) {
			e.Write("config/oauth2/b", map[string]any{"request_timeout": 20, "verify": true})
			e.Pending("prod", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewSigning(t)
				storage := e.BreakStorage()
				storage.FailWritesAfter(4) // two probes, the state of a, and the activated key pair
				status, message := e.Activate(nil)
				require.Equal(t, http.StatusOK, status, message)
				storage.WritesLeft.Store(nil)
				require.Contains(t, e.Dump()["keypair/prod"], "refresh-token-of-a")
				_, status, message = e.Request(logical.DeleteOperation, "config/oauth2/a", nil)
				require.Equal(t, http.StatusOK, status, message)
				after(e)
				assert.NotContains(t, e.Dump()["keypair/prod"], "refresh-token-of-a")
				engine.Until(2, 0, 0)
				e.Restart()
				e.Creds("b")
			})
		})
	}
}

func TestARepeatedDeletionLeavesNothingInTheKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSigning(t)
		storage := e.BreakStorage()
		storage.FailWritesAfter(4) // two probes, the state of a, and the activated key pair
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		storage.WritesLeft.Store(nil)
		meet := func(c engine.StorageCall) engine.Fault {
			if c.Op == "delete" && strings.HasPrefix(c.Key, "state/a/") {
				return engine.Fault{Err: engine.ErrStorage}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&meet)
		_, status, _ = e.Request(logical.DeleteOperation, "config/oauth2/a", nil)
		require.Equal(t, http.StatusInternalServerError, status)
		storage.OnCall.Store(nil)
		_, status, _ = e.Request(logical.DeleteOperation, "config/oauth2/a", nil)
		require.Equal(t, http.StatusOK, status)
		assert.NotContains(t, e.Dump()["keypair/prod"], "refresh-token-of-a")
	})
}

func TestAWriteAfterAnActivationLeavesNothingInTheKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSigning(t)
		storage := e.BreakStorage()
		storage.FailWritesAfter(4) // two probes, the state of a, and the activated key pair
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		storage.WritesLeft.Store(nil)
		e.Write("config/oauth2/a", map[string]any{"request_timeout": 20, "verify": true})
		e.Pending("prod", nil)
		assert.NotContains(t, e.Dump()["keypair/prod"], "refresh-token-of-a")
		assert.Contains(t, e.Dump()["keypair/prod"], "refresh-token-of-b", "its own entry does not have it yet")
		engine.Until(2, 0, 0)
		e.Restart()
		e.Creds("a")
		e.Creds("b")
	})
}

func TestAnActivatedKeyIDAppliesToCredentialsThatHaveOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const issuer = "https://other.example.com"
		e := engine.New(t)
		e.Sim.AddOAuthServer(vendorsim.OAuthServer{Issuer: issuer, TokenURL: issuer + "/token"})
		made := e.Keypair("prod", map[string]any{
			"key_type": "ec-p256", "allowed_configs": "a,b",
			"allowed_hosts": []string{provider.Host(issuer), provider.Host(vendorsim.OAuthTokenURL)},
		}).Data
		byName := map[string]crypto.PublicKey{"first": engine.PublicKey(t, made["public_key"])}
		byThumbprint := map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}
		e.Sim.AddOAuthClient(engine.SigningClient(byName))
		other := engine.SigningClient(byThumbprint)
		other.Issuer = issuer
		e.Sim.AddOAuthClient(other)
		fields := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "keypair": "prod"}
		fields["key_id"] = "first"
		e.Write("config/oauth2/a", fields)
		delete(fields, "key_id")
		fields["token_url"] = issuer + "/token"
		e.Write("config/oauth2/b", fields)

		pending := e.Pending("prod", nil).Data
		byName["second"] = engine.PublicKey(t, pending["public_key"])
		byThumbprint[pending["key_id"].(string)] = engine.PublicKey(t, pending["public_key"])
		status, message := e.Activate(map[string]any{"key_id": "second"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "second", e.Read("config/oauth2/a").Data["key_id"])
		assert.NotContains(t, e.Read("config/oauth2/b").Data, "key_id")
	})
}

// No vendor says that it accepts the pending pair, and the active one may be registered already.
func TestAnActivationThatNoVendorCanCheckIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		active := e.Keypair("prod", nil).Data["key_id"]
		pending := e.Pending("prod", nil).Data
		for _, data := range []map[string]any{nil, {"client_id": "x"}, {"key_id": "x"}} {
			status, message := e.Activate(data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Equal(t, "no credential uses keypair/prod, so no vendor can accept the pending pair; the active pair is kept; "+
				"store a credential that uses it first (verify=false if the vendor knows only the pending pair), or delete keypair/prod", message)
		}
		assert.Equal(t, active, e.Read("keypair/prod").Data["key_id"])

		e.Register(engine.ClientID, pending["public_key"])
		e.Write("config/kensho/prod", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated", "verify": false})
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, pending["key_id"], e.Read("keypair/prod").Data["key_id"])
	})
}

func TestADamagedCredentialOfAnotherVendorDoesNotAffectKeyPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		e.Damage("config/sitecore/stranger")
		e.Pending("prod", nil)
	})
}

func TestAPendingPairIgnoresOtherInvalidFieldsOfItsCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		entry, err := e.Storage.Get(t.Context(), "config/kensho/prod")
		require.NoError(t, err)
		var stored map[string]any
		require.NoError(t, entry.DecodeJSON(&stored))
		stored["fields"].(map[string]any)["ca_cert"] = "accepted by an earlier version"
		entry, err = logical.StorageEntryJSON("config/kensho/prod", stored)
		require.NoError(t, err)
		require.NoError(t, e.Storage.Put(t.Context(), entry))
		e.Pending("prod", nil)
		_, status, message := e.Request(logical.UpdateOperation, "keypair/prod", map[string]any{"key_type": "ec-p256"})
		assert.Equal(t, http.StatusOK, status, message)
	})
}
