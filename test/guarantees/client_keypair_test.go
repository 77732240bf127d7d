package guarantees_test

import (
	"crypto"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee17AKeyPairOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &sharing{Engine: engine.New(t)}
		made := e.Keypair("first", map[string]any{"key_type": "ec-p256"}).Data
		keys := map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}
		e.Sim.AddOAuthClient(engine.SigningClient(keys))
		e.Sim.AddOAuthRefreshToken(engine.SigningClient(keys), engine.RefreshToken, "read")
		fields := map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "keypair": "first", "grant_type": "refresh_token"}
		assert.Contains(t, e.refused("clients/crm", fields), `keypair/first may not be used by the client "crm"; add it to allowed_clients of keypair/first`)
		e.Keypair("first", map[string]any{"allowed_clients": "crm"})
		e.Write("clients/crm", fields)
		assert.Equal(t, []string{"auth.example.com"}, e.Read("keypair/first").Data["allowed_hosts"])
		e.Write("config/oauth2/alice", map[string]any{"client": "crm", "refresh_token": engine.RefreshToken})
		e.Creds("alice")

		_, status, message := e.Request(logical.DeleteOperation, "keypair/first", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "config/oauth2/alice")

		// The pending pair is activated for the credentials of the client.
		pending := e.Pending("first", map[string]any{"key_type": "ec-p256"}).Data
		keys[pending["key_id"].(string)] = engine.PublicKey(t, pending["public_key"])
		e.Write("keypair/first/activate", nil)
		e.Creds("alice")
		e.Restart()
		e.Write("refresh/alice", nil)

		// Another key pair is a rotation as that of a secret.
		second := e.Keypair("second", map[string]any{"key_type": "ec-p256", "allowed_clients": "crm"}).Data
		e.Write("clients/crm", map[string]any{"keypair": "second"})
		assert.Equal(t, []string{"keypair"}, e.crm()["former_secrets_set"])
		e.Write("refresh/alice", nil) // the vendor does not know it yet
		_, status, message = e.Request(logical.DeleteOperation, "keypair/first", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "is used by")
		keys[second["key_id"].(string)] = engine.PublicKey(t, second["public_key"])
		e.Write("refresh/alice", nil)
		e.Pass(time.Minute)
		assert.NotContains(t, e.crm(), "former_secrets_set")
		_, status, message = e.Request(logical.DeleteOperation, "keypair/first", nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

func TestGuarantee3AWriteOfAClientKeepsAPendingKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &sharing{Engine: engine.New(t)}
		storage := e.BreakStorage()
		e.Keypair("first", map[string]any{"key_type": "ec-p256", "allowed_clients": "crm"})
		var once atomic.Bool
		race := func(c engine.StorageCall) (none engine.Fault) { //nolint:unparam // FaultyStorage has its type
			if c.Op == "put" && c.Key == "keypair/first" && once.CompareAndSwap(false, true) {
				done := make(chan struct{})
				go func() { // another operator
					defer close(done)
					e.post("keypair/first", map[string]any{"key_type": "ec-p256"})
				}()
				select {
				case <-done:
				case <-time.After(time.Second): // it waits for the lock, as it must
				}
			}
			return none
		}
		storage.OnCall.Store(&race)
		e.Write("clients/crm", map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "keypair": "first", "grant_type": "refresh_token"})
		time.Sleep(5 * time.Second)
		assert.Contains(t, e.Dump()["keypair/first"], `"pending"`, "the pending pair, whose public half was returned, is lost")
	})
}

type signers = map[string]crypto.PublicKey

func newSigners(t *testing.T) (*sharing, signers, *engine.FaultyStorage) {
	e := &sharing{Engine: engine.New(t)}
	storage := e.BreakStorage()
	made := e.Keypair("first", map[string]any{"key_type": "ec-p256", "allowed_clients": "crm"}).Data
	keys := signers{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}
	client := engine.SigningClient(keys)
	client.Rotate = true
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read")
	e.Write("clients/crm", map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "keypair": "first", "grant_type": "refresh_token"})
	e.Write("config/oauth2/alice", map[string]any{"client": "crm", "refresh_token": engine.RefreshToken})
	e.Creds("alice")
	return e, keys, storage
}

func (e *sharing) second(keys signers, isKnown bool) any {
	made := e.Keypair("second", map[string]any{"key_type": "ec-p256", "allowed_clients": "crm"}).Data
	if isKnown {
		keys[made["key_id"].(string)] = engine.PublicKey(e.T, made["public_key"])
	}
	e.Write("clients/crm", map[string]any{"keypair": "second"})
	return made["key_id"]
}

func TestGuarantee3AnUnsettledActivationOutlivesAnotherKeyPairOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, keys, storage := newSigners(t)
		pending := e.Pending("first", map[string]any{"key_type": "ec-p256"}).Data
		keys[pending["key_id"].(string)] = engine.PublicKey(t, pending["public_key"])
		end := refusePuts(storage, "config/oauth2/alice")
		e.Write("keypair/first/activate", nil) // alice's entry, with the rotated refresh token, is only in keypair/first
		end()
		e.Restart()
		e.Write("refresh/alice", nil)
		e.second(keys, true)
		status, message := e.post("refresh/alice", nil)
		assert.Equal(t, http.StatusOK, status, "guarantee 3: %s", message)
	})
}

func TestAnActivationDoesNotPassByTheFormerKeyOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, keys, _ := newSigners(t)
		active := e.second(keys, true)
		e.Pending("second", map[string]any{"key_type": "ec-p256"}) // not registered at the vendor
		status, _ := e.post("keypair/second/activate", nil)
		assert.Equal(t, http.StatusBadRequest, status, "the vendor has refused the pending pair")
		assert.Equal(t, active, e.Read("keypair/second").Data["key_id"], "the active pair, which the vendor knows, is gone")
	})
}

func TestAFormerKeyPairOfAClientCannotBeActivated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, keys, _ := newSigners(t)
		e.second(keys, false)
		e.Pending("first", map[string]any{"key_type": "ec-p256"}) // not registered at the vendor
		status, _ := e.post("keypair/first/activate", nil)
		assert.Equal(t, http.StatusBadRequest, status, "no vendor has accepted the pending pair")
		status, message := e.post("refresh/alice", nil)
		assert.Equal(t, http.StatusOK, status, "the fallback is gone: %s", message)
	})
}
