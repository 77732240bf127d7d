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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAGeneratedKeyOfEachTypeIsKnownToAnOAuthVendorByItsThumbprint(t *testing.T) {
	for _, keyType := range []string{"rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384"} {
		for _, keyID := range []string{"", "of-the-vendor"} {
			t.Run(keyType+" "+keyID, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine(t)
					made := e.keypair("api", map[string]any{"key_type": keyType}).Data
					fields := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "private_key_source": "generated"}
					known := made["key_id"].(string)
					if keyID != "" {
						known, fields["key_id"] = keyID, keyID
					}
					e.sim.AddOAuthClient(signingClient(map[string]crypto.PublicKey{known: publicKey(t, made["public_key"])}))
					e.write("config/oauth2/api", fields)
					e.creds("api")
				})
			})
		}
	}
}

func TestAKeyThatAnOperatorGaveIsSentWithoutAThumbprint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddOAuthClient(signingClient(map[string]crypto.PublicKey{"": &privateKey().PublicKey}))
		e.write("config/oauth2/api", map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "private_key": privateKeyPEM()})
		e.creds("api")
	})
}

func TestAPendingPairThatSignsOtherwiseThanTheCredentialIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		made := e.keypair("api", nil).Data
		e.sim.AddOAuthClient(signingClient(map[string]crypto.PublicKey{made["key_id"].(string): publicKey(t, made["public_key"])}))
		e.write("config/oauth2/api", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "private_key_source": "generated", "signing_algorithm": "PS256",
		})
		_, status, message := e.request(logical.UpdateOperation, "keypair/api", map[string]any{"key_type": "ec-p384"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "key_type: ec-p384 is not for config/oauth2/api: signing_algorithm: \"PS256\" is not for this private_key, which signs with ES384", message)
		e.pending("api", map[string]any{"key_type": "rsa-3072"})
	})
}

func TestGuarantee3AnActivationKeepsTheRefreshTokensThatTheVendorReplaces(t *testing.T) {
	for name, during := range map[string]struct {
		at     time.Duration // a is being exchanged until 4 s, and then b
		happen func(*engine)
		status int    // of the activation
		lost   string // whose refresh token cannot be saved
	}{
		"that succeeds": {0, func(*engine) {}, http.StatusOK, ""},
		"that is refused": {3 * time.Second, func(e *engine) {
			e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
		}, http.StatusBadRequest, ""},
		"whose last answer is unusable": {3 * time.Second, func(e *engine) { e.sim.Behave(vendorsim.Conduct{Unstated: true}) }, http.StatusBadGateway, ""},
		"that storage refuses":          {5 * time.Second, func(e *engine) { e.storage.(*moodyStorage).dieAfter(0) }, http.StatusInternalServerError, ""},
		"that is killed": {5 * time.Second, func(e *engine) {
			e.storage.(*moodyStorage).dieAfter(0)
			e.restart()
		}, http.StatusInternalServerError, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newSigningEngine(t)
				storage := e.moody()
				e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var status int
				var message string
				var operator sync.WaitGroup
				killed := *e // which may be dead when the answer comes
				operator.Go(func() { status, message = killed.activate(nil) })
				time.Sleep(during.at)
				during.happen(e)
				operator.Wait()
				assert.Equal(t, during.status, status, message)

				e.sim.Behave(vendorsim.Conduct{})
				storage.lastWrites.Store(nil)
				time.Sleep(30 * time.Second)
				require.NoError(t, e.tick()) // which stores what is held
				e.restart()
				until(2, 0, 0)
				for _, name := range []string{"a", "b"} {
					if name != during.lost {
						e.creds(name)
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
			e := newSigningEngine(t)
			e.sim.AddOAuthClient(signingClient(map[string]crypto.PublicKey{"": &privateKey().PublicKey}))
			e.damage("keypair/prod")
			e.restart()
			e.write("config/oauth2/a", map[string]any{"private_key_source": "", "keypair": "", "private_key": privateKeyPEM(), "verify": verify})
			until(2, 0, 0)
			e.creds("a")
		})
	}
}

func TestGuarantee3AHeldRefreshTokenOutlivesADamagedKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSigningEngine(t)
		pair := e.read("keypair/prod").Data
		e.sim.AddOAuthClient(signingClient(map[string]crypto.PublicKey{
			"": &privateKey().PublicKey, pair["key_id"].(string): publicKey(t, pair["public_key"]),
		}))
		storage := e.moody()
		until(0, 50, 0)
		storage.refuse.Store(true)
		e.read("creds/a") // the refresh token that came with it is held in memory
		storage.refuse.Store(false)
		e.damage("keypair/prod")
		e.backend.InvalidateKey(t.Context(), "keypair/prod")
		e.sim.Behave(vendorsim.Conduct{Unstated: true}) // a refresh token, and no access token that can be used
		mended := map[string]any{"private_key_source": "", "keypair": "", "private_key": privateKeyPEM()}
		_, status, message := e.request(logical.UpdateOperation, "config/oauth2/a", mended)
		assert.Equal(t, http.StatusBadGateway, status, message)
		e.sim.Behave(vendorsim.Conduct{})
		e.write("config/oauth2/a", mended)
		e.creds("a")
	})
}
