package tokenbroker_test

import (
	"crypto"
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

func TestAGeneratedKeyOfEachTypeIsKnownToAnOAuthVendorByItsThumbprint(t *testing.T) {
	for _, keyType := range []string{"rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384"} {
		for _, keyID := range []string{"", "of-the-vendor"} {
			t.Run(keyType+" "+keyID, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.New(t)
					made := e.Keypair("api", map[string]any{"key_type": keyType}).Data
					fields := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated"}
					known := made["key_id"].(string)
					if keyID != "" {
						known, fields["key_id"] = keyID, keyID
					}
					e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{known: engine.PublicKey(t, made["public_key"])}))
					e.Write("config/oauth2/api", fields)
					e.Creds("api")
				})
			})
		}
	}
}

func TestAKeyThatAnOperatorGaveIsSentWithoutAThumbprint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}))
		e.Write("config/oauth2/api", map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()})
		e.Creds("api")
	})
}

func TestAPendingPairThatSignsOtherwiseThanTheCredentialIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		made := e.Keypair("api", nil).Data
		e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}))
		e.Write("config/oauth2/api", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "signing_algorithm": "PS256",
		})
		_, status, message := e.Request(logical.UpdateOperation, "keypair/api", map[string]any{"key_type": "ec-p384"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "key_type: ec-p384 is not for config/oauth2/api: signing_algorithm: \"PS256\" does not fit the private_key; use ES384", message)
		e.Pending("api", map[string]any{"key_type": "rsa-3072"})
	})
}

func TestGuarantee3AnActivationKeepsTheRefreshTokensThatTheVendorReplaces(t *testing.T) {
	for name, during := range map[string]struct {
		at     time.Duration // a is being exchanged until 4 s, and then b
		happen func(*engine.Engine)
		status int    // of the activation
		lost   string // whose refresh token cannot be saved
	}{
		"that succeeds": {0, func(*engine.Engine) {}, http.StatusOK, ""},
		"that is refused": {3 * time.Second, func(e *engine.Engine) {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
		}, http.StatusBadRequest, ""},
		"whose last answer is unusable": {3 * time.Second, func(e *engine.Engine) { e.Sim.Behave(vendorsim.Conduct{Unstated: true}) }, http.StatusBadGateway, ""},
		"that storage refuses":          {5 * time.Second, func(e *engine.Engine) { e.Storage.(*engine.FaultyStorage).DieAfter(0) }, http.StatusInternalServerError, ""},
		"that is killed": {5 * time.Second, func(e *engine.Engine) {
			e.Storage.(*engine.FaultyStorage).DieAfter(0)
			e.Restart()
		}, http.StatusInternalServerError, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewSigning(t)
				storage := e.BreakStorage()
				e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var status int
				var message string
				var operator sync.WaitGroup
				killed := *e // which may be dead when the answer comes
				operator.Go(func() { status, message = killed.Activate(nil) })
				time.Sleep(during.at)
				during.happen(e)
				operator.Wait()
				assert.Equal(t, during.status, status, message)

				e.Sim.Behave(vendorsim.Conduct{})
				storage.LastWrites.Store(nil)
				time.Sleep(30 * time.Second)
				require.NoError(t, e.Tick()) // which stores what is held
				e.Restart()
				engine.Until(2, 0, 0)
				for _, name := range []string{"a", "b"} {
					if name != during.lost {
						e.Creds(name)
					}
				}
			})
		})
	}
}

// A write that gives a credential another key mends it, with the refresh token that the
// vendor has given since in place of the operator's.
func TestGuarantee3ACredentialWhoseKeyPairIsDamagedIsMendedWithTheRefreshTokenInUse(t *testing.T) {
	for _, verify := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewSigning(t)
			e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}))
			e.Damage("keypair/prod")
			e.Restart()
			e.Write("config/oauth2/a", map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM(), "verify": verify})
			engine.Until(2, 0, 0)
			e.Creds("a")
		})
	}
}

func TestGuarantee3AHeldRefreshTokenOutlivesADamagedKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSigning(t)
		pair := e.Read("keypair/prod").Data
		e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{
			"": &engine.PrivateKey().PublicKey, pair["key_id"].(string): engine.PublicKey(t, pair["public_key"]),
		}))
		storage := e.BreakStorage()
		engine.Until(0, 50, 0)
		storage.Refuse.Store(true)
		e.Read("creds/a") // the refresh token that came with it is held in memory
		storage.Refuse.Store(false)
		e.Damage("keypair/prod")
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		e.Sim.Behave(vendorsim.Conduct{Unstated: true}) // a refresh token, and no access token that can be used
		mended := map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM()}
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/a", mended)
		assert.Equal(t, http.StatusBadGateway, status, message)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("config/oauth2/a", mended)
		e.Creds("a")
	})
}
