package keypairs_test

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// issuerOf returns the iss of the token that a credential signs by itself.
func issuerOf(e *engine.Engine, name string) string {
	e.T.Helper()
	parts := strings.Split(engine.TokenOf(e.Read("token/"+name)), ".")
	require.Len(e.T, parts, 3)
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(e.T, err)
	var claims struct{ Iss string }
	require.NoError(e.T, json.Unmarshal(raw, &claims))
	return claims.Iss
}

// Given a vendor that trusts only the new issuer, a token of the former one is of no use.
func TestGuarantee8ASignedTokenHasTheNewIssuerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewUnchecked(t)
		issuer := e.PublishKeypair("batch", nil)
		e.Write("config/aws-web-identity/batch", map[string]any{"private_key_source": "generated"})
		other := e.Backend // of another node
		assert.Equal(t, issuer, issuerOf(e, "batch"))
		moved := strings.Replace(issuer, "vault.", "vault-eu.", 1)
		e.Restart()
		e.Write("keypair/batch", map[string]any{"issuer": moved})
		assert.Equal(t, moved, issuerOf(e, "batch"))
		e.Backend = other
		e.Backend.InvalidateKey(t.Context(), "keypair/batch")
		assert.Equal(t, moved, issuerOf(e, "batch"))
	})
}

// Given a vendor that issues tokens for two subjects, one of which is taken off the key pair.
func TestGuarantee17NoTokenOfASubjectThatIsNoLongerAllowedIsServed(t *testing.T) {
	for name, narrowed := range map[string]map[string]any{
		"the other subject stays": {"allowed_subjects": "ann"}, "a third subject is added": {"allowed_subjects": "ann,carol"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewUnchecked(t)
				e.Sim.Behave(issuing())
				e.Keypair("api", map[string]any{"key_type": "ec-p256", "allowed_subjects": "ann,bob"})
				e.Write("config/oauth2/api", map[string]any{"token_url": vendorsim.OAuthTokenURL, "grant_type": "jwt_bearer", "client_id": "app", "private_key_source": "generated", "verify": false})
				e.Write("roles/ann", map[string]any{"config": "api", "assertion_subject": "ann"})
				e.Write("roles/bob", map[string]any{"config": "api", "assertion_subject": "bob"})
				e.Write("roles/each", map[string]any{"config": "api", "allowed_params": "assertion_subject"})
				each := func() int {
					_, status, _ := e.Request(logical.ReadOperation, "token/each", map[string]any{"assertion_subject": "bob"})
					return status
				}
				first := engine.TokenOf(e.Read("token/ann"))
				e.Read("token/bob")
				require.Equal(t, http.StatusOK, each())
				e.Write("keypair/api", narrowed)
				for range 2 {
					status, message := e.Refused("token/bob")
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, message, `keypair: keypair/api does not sign for the subject "bob"`)
					assert.Equal(t, http.StatusBadRequest, each())
					assert.NotEqual(t, first, engine.TokenOf(e.Read("token/ann")))
					e.Restart()
				}
			})
		})
	}
}

func TestGuarantee17NoTokenOfAnAudienceThatIsNoLongerAllowedIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewUnchecked(t)
		e.Sim.Behave(issuing())
		e.Keypair("api", map[string]any{"key_type": "ec-p256"})
		e.Write("config/oauth2/api", map[string]any{"token_url": vendorsim.OAuthTokenURL, "grant_type": "jwt_bearer", "client_id": "app", "private_key_source": "generated"})
		first := engine.TokenOf(e.Read("token/api"))
		e.Write("keypair/api", map[string]any{"allowed_audiences": vendorsim.OAuthTokenURL})
		assert.NotEqual(t, first, engine.TokenOf(e.Read("token/api")))
	})
}

// Tokens that are still allowed stay, as the vendor may be unavailable.
func TestAWiderKeyPairKeepsTheTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewUnchecked(t)
		e.Sim.Behave(issuing())
		e.Keypair("api", map[string]any{"key_type": "ec-p256", "allowed_subjects": "app", "allowed_audiences": vendorsim.OAuthTokenURL})
		e.Write("config/oauth2/api", map[string]any{"token_url": vendorsim.OAuthTokenURL, "grant_type": "jwt_bearer", "client_id": "app", "assertion_subject": "app", "private_key_source": "generated"})
		first := engine.TokenOf(e.Read("token/api"))
		for _, wider := range []map[string]any{{"allowed_subjects": "app,bob"}, {"allowed_audiences": vendorsim.OAuthTokenURL + ",https://other.example"}, {"allowed_subjects": "", "allowed_audiences": ""}} {
			e.Write("keypair/api", wider)
			assert.Equal(t, first, engine.TokenOf(e.Read("token/api")), wider)
		}
	})
}

// Only the vendor's last answer has the refresh token.
func TestGuarantee3AChangeOfAKeyPairKeepsTheRotatedRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		made := e.Keypair("api", map[string]any{"key_type": "ec-p256"}).Data
		client := engine.SigningClient(map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])})
		e.Sim.AddOAuthClient(client)
		e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read")
		e.Write("config/oauth2/api", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "refresh_token": engine.RefreshToken, "private_key_source": "generated",
		})
		first := engine.TokenOf(e.Creds("api"))
		e.Write("keypair/api", map[string]any{"allowed_audiences": vendorsim.OAuthTokenURL + ",https://auth.example.com"})
		second := engine.TokenOf(e.Creds("api"))
		assert.NotEqual(t, first, second)
		e.Restart()
		assert.Equal(t, second, engine.TokenOf(e.Creds("api")), "the new token is stored")
		noFailures(e)
	})
}

// issuing returns the conduct of a vendor that issues a new token for each request.
func issuing() vendorsim.Conduct {
	issued := 0
	return vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
		issued++
		return vendorsim.Answer(http.StatusOK, `{"access_token": "access-`+strings.Repeat("x", issued)+`Qm29xLpTz", "token_type": "Bearer", "expires_in": 3600}`)
	}}
}
