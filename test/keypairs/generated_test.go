package keypairs_test

import (
	"crypto"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAGeneratedKeyIsIdentifiedByItsThumbprint(t *testing.T) {
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

func TestAnOperatorsKeyIsSentWithoutAThumbprint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}))
		e.Write("config/oauth2/api", map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()})
		e.Creds("api")
	})
}

func TestAPendingPairMustSupportTheSigningAlgorithm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		made := e.Keypair("api", nil).Data
		e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}))
		e.Write("config/oauth2/api", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "signing_algorithm": "PS256",
		})
		_, status, message := e.Request(logical.UpdateOperation, "keypair/api", map[string]any{"key_type": "ec-p384"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "key_type: ec-p384 does not work for config/oauth2/api: signing_algorithm: \"PS256\" does not fit the private_key; use ES384", message)
		e.Pending("api", map[string]any{"key_type": "rsa-3072"})
	})
}
