package keypairs_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAPairIsPendingUntilTheVendorAcceptsIt(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewGenerated(t)
				active := e.Read("keypair/prod").Data
				older := e.Creds("prod").Data["access_token"]
				pending := e.Pending("prod", nil)
				assert.Empty(t, pending.Warnings)
				read := e.Read("keypair/prod").Data
				for field, value := range active {
					assert.Equal(t, value, read[field], "the active pair is unchanged")
					assert.Equal(t, pending.Data[field], read["pending_"+field])
				}
				assert.NotEqual(t, active["public_key"], pending.Data["public_key"])

				status, message := e.Activate(nil)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Equal(t, "the vendor rejected the credential: kensho.okta.com: 401 Unauthorized: invalid_client; config/kensho/prod keeps using the active pair of keypair/prod; the pending pair stays pending", message)
				assert.Equal(t, read, e.Read("keypair/prod").Data)
				assert.Equal(t, older, e.Creds("prod").Data["access_token"])
				if restart {
					e.Restart()
				}
				engine.Until(2, 0, 0)
				e.Creds("prod") // with the active pair

				e.Register(engine.ClientID, pending.Data["public_key"]) // in place of the active one
				calls := e.Exchanges()
				status, message = e.Activate(nil)
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, calls+1, e.Exchanges())
				if restart {
					e.Restart()
				}
				assert.NotEqual(t, older, e.Creds("prod").Data["access_token"])
				assert.Equal(t, calls+1, e.Exchanges(), "the activation has cached its token")
				active = e.Read("keypair/prod").Data
				for field, value := range pending.Data {
					assert.Equal(t, value, active[field], field)
				}
				assert.Equal(t, "2000-01-01T02:00:00Z", e.Read("status/prod").Data["credential_updated_time"])
				engine.Until(4, 0, 0)
				e.Creds("prod")
			})
		})
	}
}

func TestANewPendingPairReplacesTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		first := e.Pending("prod", map[string]any{"key_type": "rsa-3072"}).Data
		second := e.Pending("prod", nil)
		assert.Equal(t, []string{"the pending pair " + first["key_id"].(string) + " was replaced; if it is registered at the vendor, register the new one instead"}, second.Warnings)
		assert.Equal(t, second.Data["key_id"], e.Read("keypair/prod").Data["pending_key_id"])
		assert.Equal(t, "rsa-2048", second.Data["key_type"], "the default is the type of the active pair")

		third := e.Pending("prod", map[string]any{"key_type": "rsa-3072"}).Data
		e.Register(engine.ClientID, third["public_key"])
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "rsa-3072", e.Pending("prod", nil).Data["key_type"])
	})
}

func TestAFailedActivationChangesNothing(t *testing.T) {
	unknown := func(*engine.Engine, *logical.Response) {}
	for name, test := range map[string]struct {
		provoke func(*engine.Engine, *logical.Response)
		data    map[string]any
		status  int
		says    string
	}{
		"an unknown key":    {unknown, nil, http.StatusBadRequest, "the vendor rejected the credential: kensho.okta.com: 401"},
		"an unknown client": {unknown, map[string]any{"client_id": "0oa-nobody"}, http.StatusBadRequest, "the vendor rejected the credential"},
		"no client ID":      {unknown, map[string]any{"client_id": ""}, http.StatusBadRequest, "client_id: must be set"},
		"an unknown field":  {unknown, map[string]any{"verify": false}, http.StatusBadRequest, `unknown field "verify" (allowed: client_id, force, key_id, name`},
		"an outage":         {func(e *engine.Engine, _ *logical.Response) { e.Sim.Behave(engine.Down()) }, nil, http.StatusServiceUnavailable, "cannot verify the credential: the vendor is unavailable: kensho.okta.com: 503 Service Unavailable: down; config/kensho/prod keeps using the active pair of keypair/prod"},
		"an invalid response": {func(e *engine.Engine, _ *logical.Response) {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, "<html>"))})
		}, nil, http.StatusBadGateway, "cannot verify the credential: invalid response from the vendor"},
		"one of two credentials is rejected": {func(e *engine.Engine, pending *logical.Response) {
			e.Register(engine.NextClientID, pending.Data["public_key"])
			calls := e.Exchanges()
			e.Sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
				if e.Exchanges() == calls+1 {
					return nil
				}
				return vendorsim.Answer(http.StatusForbidden, `{"error":"access_denied"}`)
			}})
		}, map[string]any{"client_id": engine.NextClientID}, http.StatusBadRequest, "403 Forbidden: access_denied; config/kensho/scribe keeps using"},
		"different client IDs": {func(e *engine.Engine, _ *logical.Response) {
			e.Register("0oa-of-scribe", e.Read("keypair/prod").Data["public_key"])
			e.Write("config/kensho/scribe", map[string]any{"client_id": "0oa-of-scribe"})
		}, map[string]any{"client_id": engine.NextClientID}, http.StatusBadRequest, "client_id: config/kensho/prod and config/kensho/scribe have different client IDs; give each credential its own key pair"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, pending := engine.NewRotation(t)
				test.provoke(e, pending)
				before, tokens := e.Dump(), e.Tokens()
				status, message := e.Activate(test.data)
				assert.Equal(t, test.status, status)
				assert.Contains(t, message, test.says)
				e.Sim.Behave(vendorsim.Conduct{})
				assert.Equal(t, before, e.Dump())
				assert.Equal(t, tokens, e.Tokens())
				engine.Until(2, 0, 0)
				e.Tokens() // with the active pair
			})
		})
	}
}

func TestANewClientIDAppliesToAllCredentialsOfTheKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, pending := engine.NewRotation(t)
		older := e.Tokens()
		e.Register(engine.NextClientID, pending.Data["public_key"])
		status, message := e.Activate(map[string]any{"client_id": " " + engine.NextClientID + "\n"})
		require.Equal(t, http.StatusOK, status, message)
		e.Sim.RevokeCredential(engine.ClientID)
		for name, token := range e.Tokens() {
			assert.NotEqual(t, older[name], token)
			assert.Equal(t, engine.NextClientID, e.Read("config/kensho/" + name).Data["client_id"])
		}
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		engine.Until(2, 0, 0)
		e.Tokens()
	})
}

func TestAnOperatorsKeyIDBelongsToOnePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		know := func(client string, answer *logical.Response, keyID string) {
			e.Sim.AddClient(client, engine.PublicKey(t, answer.Data["public_key"]).(*rsa.PublicKey), keyID)
		}
		know(engine.ClientID, e.Keypair("prod", nil), "first")
		e.Write("config/kensho/prod", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated", "key_id": "first"})
		know(engine.NextClientID, e.Pending("prod", nil), "second")
		status, message := e.Activate(map[string]any{"client_id": engine.NextClientID, "key_id": "second"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "second", e.Read("config/kensho/prod").Data["key_id"])

		know(engine.ClientID, e.Pending("prod", nil), "")
		status, message = e.Activate(map[string]any{"client_id": engine.ClientID, "key_id": ""})
		require.Equal(t, http.StatusOK, status, message)
		engine.Until(2, 0, 0)
		e.Creds("prod")
	})
}

func TestACredentialCanChangeDuringAnActivation(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*engine.Engine) (status int, message string)
		status int // of the activation
		says   string
	}{
		"another credential uses the key pair": {func(e *engine.Engine) (int, string) {
			_, status, message := e.Request(logical.UpdateOperation, "config/kensho/nerd", map[string]any{
				"client_id": engine.NextClientID, "private_key_source": "generated", "keypair": "prod", "product": "nerd",
			})
			return status, message
		}, http.StatusOK, ""},
		"it is written": {func(e *engine.Engine) (int, string) {
			_, status, message := e.Request(logical.UpdateOperation, "config/kensho/scribe", map[string]any{"request_timeout": 20, "verify": true})
			return status, message
		}, http.StatusOK, ""},
		"it is deleted": {func(e *engine.Engine) (int, string) {
			_, status, message := e.Request(logical.DeleteOperation, "config/kensho/scribe", nil)
			return status, message
		}, http.StatusOK, ""},
		"it gets its own key": {func(e *engine.Engine) (int, string) {
			e.Sim.AddClient("0oa-of-its-own", &engine.PrivateKey().PublicKey, "")
			_, status, message := e.Request(logical.UpdateOperation, "config/kensho/scribe", map[string]any{
				"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM(), "client_id": "0oa-of-its-own", "verify": false,
			})
			return status, message
		}, http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, pending := engine.NewRotation(t)
				e.Register(engine.NextClientID, pending.Data["public_key"])
				e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var status int
				var message string
				var operator sync.WaitGroup
				operator.Go(func() { status, message = e.Activate(map[string]any{"client_id": engine.NextClientID}) })
				time.Sleep(time.Second) // the exchange of prod is in flight; that of scribe has not started
				changed, why := test.change(e)
				operator.Wait()
				require.Equal(t, http.StatusOK, changed, why)
				assert.Equal(t, test.status, status, message)
				assert.Contains(t, message, test.says)

				e.Sim.Behave(vendorsim.Conduct{})
				e.Restart()
				engine.Until(2, 0, 0)
				resp, _, _ := e.Request(logical.ListOperation, "config/", nil)
				for _, name := range resp.Data["keys"].([]string) {
					e.Creds(name)
				}
				assert.Equal(t, test.status == http.StatusOK, e.Read("keypair/prod").Data["key_id"] == pending.Data["key_id"])
			})
		})
	}
}
