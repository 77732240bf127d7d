package tokenbroker_test

import (
	"crypto/rsa"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAPairIsPendingUntilTheVendorTakesIt(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newGeneratedEngine(t)
				active := e.read("keypair/prod").Data
				older := e.creds("prod").Data["access_token"]
				pending := e.pending("prod", nil)
				assert.Empty(t, pending.Warnings)
				read := e.read("keypair/prod").Data
				for field, value := range active {
					assert.Equal(t, value, read[field], "the active pair is as it was")
					assert.Equal(t, pending.Data[field], read["pending_"+field])
				}
				assert.NotEqual(t, active["public_key"], pending.Data["public_key"])

				status, message := e.activate(nil)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Equal(t, "the vendor rejected the credential: kensho.okta.com: 401 Unauthorized: invalid_client; config/kensho/prod goes on with the active pair of keypair/prod, and the pending one stays pending", message)
				assert.Equal(t, read, e.read("keypair/prod").Data)
				assert.Equal(t, older, e.creds("prod").Data["access_token"])
				if restart {
					e.restart()
				}
				until(2, 0, 0)
				e.creds("prod") // by the active pair

				e.register(clientID, pending.Data["public_key"]) // and forget the other
				calls := e.exchanges()
				status, message = e.activate(nil)
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, calls+1, e.exchanges())
				if restart {
					e.restart()
				}
				assert.NotEqual(t, older, e.creds("prod").Data["access_token"])
				assert.Equal(t, calls+1, e.exchanges(), "the token is that of the activation")
				active = e.read("keypair/prod").Data
				for field, value := range pending.Data {
					assert.Equal(t, value, active[field], field)
				}
				assert.Equal(t, "2000-01-01T02:00:00Z", e.read("status/prod").Data["credential_updated_time"])
				until(4, 0, 0)
				e.creds("prod")
			})
		})
	}
}

func TestAnotherPendingPairTakesThePlaceOfTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newGeneratedEngine(t)
		first := e.pending("prod", map[string]any{"key_type": "rsa-3072"}).Data
		second := e.pending("prod", nil)
		assert.Equal(t, []string{"the pair that was pending until now, " + first["key_id"].(string) + ", is gone: if the vendor was given that, give this one instead"}, second.Warnings)
		assert.Equal(t, second.Data["key_id"], e.read("keypair/prod").Data["pending_key_id"])
		assert.Equal(t, "rsa-2048", second.Data["key_type"], "which is that of the active pair")

		third := e.pending("prod", map[string]any{"key_type": "rsa-3072"}).Data
		e.register(clientID, third["public_key"])
		status, message := e.activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "rsa-3072", e.pending("prod", nil).Data["key_type"])
	})
}

func TestAnActivationThatFailsLeavesAllAsItWas(t *testing.T) {
	unknown := func(*engine, *logical.Response) {}
	for name, test := range map[string]struct {
		provoke func(*engine, *logical.Response)
		data    map[string]any
		status  int
		says    string
	}{
		"an unknown key":      {unknown, nil, http.StatusBadRequest, "the vendor rejected the credential: kensho.okta.com: 401"},
		"an unknown client":   {unknown, map[string]any{"client_id": "0oa-nobody"}, http.StatusBadRequest, "the vendor rejected the credential"},
		"no client ID":        {unknown, map[string]any{"client_id": ""}, http.StatusBadRequest, "client_id: is missing"},
		"an unknown field":    {unknown, map[string]any{"verify": false}, http.StatusBadRequest, "verify: is no field of this path, which has client_id, key_id, name"},
		"a vendor who is out": {func(e *engine, _ *logical.Response) { e.sim.Behave(down()) }, nil, http.StatusServiceUnavailable, "the vendor cannot be asked about the credential: kensho.okta.com: 503 Service Unavailable: down; config/kensho/prod goes on with the active pair of keypair/prod"},
		"nonsense": {func(e *engine, _ *logical.Response) {
			e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, "<html>"))})
		}, nil, http.StatusBadGateway, "the vendor's answer about the credential is unusable"},
		"one of two is refused": {func(e *engine, pending *logical.Response) {
			e.register(nextClientID, pending.Data["public_key"])
			calls := e.exchanges()
			e.sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
				if e.exchanges() == calls+1 {
					return nil
				}
				return vendorsim.Answer(http.StatusForbidden, `{"error":"access_denied"}`)
			}})
		}, map[string]any{"client_id": nextClientID}, http.StatusBadRequest, "403 Forbidden: access_denied; config/kensho/scribe goes on"},
		"different client IDs": {func(e *engine, _ *logical.Response) {
			e.register("0oa-of-scribe", e.read("keypair/prod").Data["public_key"])
			e.write("config/kensho/scribe", map[string]any{"client_id": "0oa-of-scribe"})
		}, map[string]any{"client_id": nextClientID}, http.StatusBadRequest, "client_id: cannot be that of both config/kensho/prod and config/kensho/scribe, which have different ones now; give each a key pair of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, pending := newRotationEngine(t)
				test.provoke(e, pending)
				before, tokens := e.dump(), e.tokens()
				status, message := e.activate(test.data)
				assert.Equal(t, test.status, status)
				assert.Contains(t, message, test.says)
				e.sim.Behave(vendorsim.Conduct{})
				assert.Equal(t, before, e.dump())
				assert.Equal(t, tokens, e.tokens())
				until(2, 0, 0)
				e.tokens() // by the active pair
			})
		})
	}
}

func TestANewClientIDGoesToAllCredentialsOfTheKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := newRotationEngine(t)
		older := e.tokens()
		e.register(nextClientID, pending.Data["public_key"])
		status, message := e.activate(map[string]any{"client_id": " " + nextClientID + "\n"})
		require.Equal(t, http.StatusOK, status, message)
		e.sim.RevokeCredential(clientID)
		for name, token := range e.tokens() {
			assert.NotEqual(t, older[name], token)
			assert.Equal(t, nextClientID, e.read("config/kensho/" + name).Data["client_id"])
		}
		e.write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		until(2, 0, 0)
		e.tokens()
	})
}

func TestAKeyIDThatAnOperatorGaveIsThatOfOnePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		know := func(client string, answer *logical.Response, keyID string) {
			e.sim.AddClient(client, publicKey(t, answer.Data["public_key"]).(*rsa.PublicKey), keyID)
		}
		know(clientID, e.keypair("prod", nil), "first")
		e.write("config/kensho/prod", map[string]any{"client_id": clientID, "private_key_source": "generated", "key_id": "first"})
		know(nextClientID, e.pending("prod", nil), "second")
		status, message := e.activate(map[string]any{"client_id": nextClientID, "key_id": "second"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "second", e.read("config/kensho/prod").Data["key_id"])

		know(clientID, e.pending("prod", nil), "")
		status, message = e.activate(map[string]any{"client_id": clientID, "key_id": ""})
		require.Equal(t, http.StatusOK, status, message)
		until(2, 0, 0)
		e.creds("prod")
	})
}

func TestAKeyPairThatNobodyUsesIsActivatedWithoutTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.keypair("prod", nil)
		pending := e.pending("prod", map[string]any{"key_type": "ec-p384"})
		status, message := e.activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, pending.Data["key_id"], e.read("keypair/prod").Data["key_id"])
		assert.Zero(t, e.exchanges())
	})
}

func TestWhatHappensToACredentialDuringAnActivation(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*engine) (status int, message string)
		status int // of the activation
		says   string
	}{
		"another takes the key pair up": {func(e *engine) (int, string) {
			_, status, message := e.request(logical.UpdateOperation, "config/kensho/nerd", map[string]any{
				"client_id": nextClientID, "private_key_source": "generated", "keypair": "prod", "product": "nerd",
			})
			return status, message
		}, http.StatusOK, ""},
		"it is written": {func(e *engine) (int, string) {
			_, status, message := e.request(logical.UpdateOperation, "config/kensho/scribe", map[string]any{"request_timeout": 20, "verify": true})
			return status, message
		}, http.StatusOK, ""},
		"it is deleted": {func(e *engine) (int, string) {
			_, status, message := e.request(logical.DeleteOperation, "config/kensho/scribe", nil)
			return status, message
		}, http.StatusOK, ""},
		"it gets a key of its own": {func(e *engine) (int, string) {
			e.sim.AddClient("0oa-of-its-own", &privateKey().PublicKey, "")
			_, status, message := e.request(logical.UpdateOperation, "config/kensho/scribe", map[string]any{
				"private_key_source": "", "keypair": "", "private_key": privateKeyPEM(), "client_id": "0oa-of-its-own", "verify": false,
			})
			return status, message
		}, http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, pending := newRotationEngine(t)
				e.register(nextClientID, pending.Data["public_key"])
				e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var status int
				var message string
				var operator sync.WaitGroup
				operator.Go(func() { status, message = e.activate(map[string]any{"client_id": nextClientID}) })
				time.Sleep(time.Second) // prod is being exchanged, and scribe is still free
				changed, why := test.change(e)
				operator.Wait()
				require.Equal(t, http.StatusOK, changed, why)
				assert.Equal(t, test.status, status, message)
				assert.Contains(t, message, test.says)

				e.sim.Behave(vendorsim.Conduct{})
				e.restart()
				until(2, 0, 0)
				resp, _, _ := e.request(logical.ListOperation, "config/", nil)
				for _, name := range resp.Data["keys"].([]string) {
					e.creds(name)
				}
				assert.Equal(t, test.status == http.StatusOK, e.read("keypair/prod").Data["key_id"] == pending.Data["key_id"])
			})
		})
	}
}
