package tokenbroker_test

import (
	"crypto"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// signingClient is one that has its refresh tokens replaced.
func signingClient(keys map[string]crypto.PublicKey) vendorsim.OAuthClient {
	return vendorsim.OAuthClient{
		ID: clientID, AuthMethods: []string{vendorsim.PrivateKeyJWT}, Keys: keys, Scopes: []string{"read"}, Rotate: true,
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
}

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
		assert.Equal(t, "key_type: ec-p384 is not for config/oauth2/api: signing_algorithm: PS256 is not for this private_key, which signs with ES384", message)
		e.pending("api", map[string]any{"key_type": "rsa-3072"})
	})
}
