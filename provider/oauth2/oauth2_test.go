package oauth2_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

const (
	clientID     = "a client/1"
	clientSecret = "a-secret+with/odd:characters-0123456789"
	refreshToken = "refresh-token-0123456789"
)

var rsaKey = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func ecKey(curve elliptic.Curve) crypto.Signer {
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func edKey() crypto.Signer {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func keyPEM(key crypto.Signer) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// newSim returns an authorization server with a client that has a secret.
func newSim(change ...func(*vendorsim.OAuthClient)) *vendorsim.Sim {
	sim := vendorsim.New()
	client := vendorsim.OAuthClient{
		ID: clientID, Secret: clientSecret, Scopes: []string{"read", "write"},
		AuthMethods: []string{vendorsim.SecretBasic},
		Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
	for _, f := range change {
		f(&client)
	}
	sim.AddOAuthClient(client)
	sim.AddOAuthRefreshToken(client, refreshToken, client.Scopes...)
	return sim
}

func tryOpen(t *testing.T, sim http.Handler, fields map[string]any) (provider.Credential, error) {
	t.Helper()
	client, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second, Transport: vendorsim.Transport(sim)})
	require.NoError(t, err)
	all := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": clientID}
	maps.Copy(all, fields)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	raw, err := json.Marshal(all)
	require.NoError(t, err)
	return oauth2.Provider{}.Open(provider.Settings{Fields: raw, Client: client, WriteTime: time.Now()})
}

func open(t *testing.T, sim *vendorsim.Sim, fields map[string]any) provider.Credential {
	t.Helper()
	credential, err := tryOpen(t, sim, fields)
	require.NoError(t, err)
	return credential
}

func exchange(t *testing.T, sim *vendorsim.Sim, c provider.Credential, last provider.Grant) *provider.Answer {
	t.Helper()
	answer, err := c.Exchange(t.Context(), last)
	require.NoError(t, err)
	assert.Empty(t, sim.Violations())
	assert.True(t, sim.Accepts(answer.AccessToken))
	return answer
}

func form(t *testing.T, call vendorsim.Call) url.Values {
	t.Helper()
	values, err := url.ParseQuery(call.Body)
	require.NoError(t, err)
	return values
}

func TestAClientAuthenticatesWithItsSecret(t *testing.T) {
	for style, want := range map[string]struct {
		authorization string
		form          url.Values
	}{
		"client_secret_basic_unencoded": {"Basic YSBjbGllbnQvMTphLXNlY3JldCt3aXRoL29kZDpjaGFyYWN0ZXJzLTAxMjM0NTY3ODk=", url.Values{}},
		// RFC 6749 §2.3.1: ID and secret are form-encoded.
		"client_secret_basic": {"Basic YStjbGllbnQlMkYxOmEtc2VjcmV0JTJCd2l0aCUyRm9kZCUzQWNoYXJhY3RlcnMtMDEyMzQ1Njc4OQ==", url.Values{}},
		"client_secret_post":  {"", url.Values{"client_id": {clientID}, "client_secret": {clientSecret}}},
	} {
		t.Run(style, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) {
					c.AuthMethods = []string{strings.TrimSuffix(style, "_unencoded")}
					c.Params = map[string]string{"audience": "https://api.example.com"}
				})
				sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{PlainBasic: strings.HasSuffix(style, "_unencoded")}})
				credential := open(t, sim, map[string]any{
					"client_secret": clientSecret, "auth_style": style, "scope": []string{"read", "write"},
					"token_params": map[string]string{"audience": "https://api.example.com"},
				})
				answer := exchange(t, sim, credential, provider.Grant{})
				assert.Equal(t, time.Hour, answer.ExpiresIn)
				assert.Equal(t, []string{"read", "write"}, answer.Scope)
				assert.Nil(t, answer.Grant)

				call := sim.Calls()[0]
				assert.Equal(t, http.MethodPost, call.Method)
				assert.Equal(t, vendorsim.OAuthTokenURL, call.URL)
				assert.Equal(t, want.authorization, call.Header.Get("Authorization"))
				assert.Equal(t, "application/x-www-form-urlencoded", call.Header.Get("Content-Type"))
				assert.Equal(t, "application/json", call.Header.Get("Accept"))
				maps.Copy(want.form, url.Values{"grant_type": {"client_credentials"}, "scope": {"read write"}, "audience": {"https://api.example.com"}})
				assert.Equal(t, want.form, form(t, call))
			})
		})
	}
}

func TestAClientAuthenticatesWithASignature(t *testing.T) {
	for name, test := range map[string]struct {
		key       crypto.Signer
		algorithm string
		sends     string
	}{
		"RSA":           {rsaKey(), "", "RS256"},
		"RSA, with PSS": {rsaKey(), "PS256", "PS256"},
		"EC on P-256":   {ecKey(elliptic.P256()), "", "ES256"},
		"RSA, SHA-384":  {rsaKey(), "RS384", "RS384"},
		"RSA, SHA-512":  {rsaKey(), "RS512", "RS512"},
		"PSS, SHA-384":  {rsaKey(), "PS384", "PS384"},
		"PSS, SHA-512":  {rsaKey(), "PS512", "PS512"},
		"EC on P-384":   {ecKey(elliptic.P384()), "ES384", "ES384"},
		"EC on P-521":   {ecKey(elliptic.P521()), "", "ES512"},
		"Ed25519":       {edKey(), "", "EdDSA"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) {
					c.AuthMethods = []string{vendorsim.PrivateKeyJWT}
					c.Keys = map[string]crypto.PublicKey{"key-7": test.key.Public()}
				})
				fields := map[string]any{"private_key": keyPEM(test.key), "key_id": "key-7"}
				if test.algorithm != "" {
					fields["signing_algorithm"] = test.algorithm
				}
				credential := open(t, sim, fields)
				exchange(t, sim, credential, provider.Grant{})
				exchange(t, sim, credential, provider.Grant{}) // a repeated jti is refused

				sent := form(t, sim.Calls()[0])
				assert.Equal(t, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", sent.Get("client_assertion_type"))
				claims := jwt.MapClaims{}
				token, _, err := jwt.NewParser().ParseUnverified(sent.Get("client_assertion"), claims)
				require.NoError(t, err)
				assert.Equal(t, map[string]any{"alg": test.sends, "typ": "JWT", "kid": "key-7"}, token.Header)
				assert.Equal(t, clientID, claims["iss"])
				assert.Equal(t, clientID, claims["sub"])
				assert.Equal(t, vendorsim.OAuthTokenURL, claims["aud"])
				assert.InDelta(t, 120, claims["exp"].(float64)-claims["iat"].(float64), 0, "seconds")
			})
		})
	}
}

func TestARefreshTokenIsExchangedAndARotatedOneIsUsedNext(t *testing.T) {
	for name, rotates := range map[string]bool{"stays": false, "rotates": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) { c.Rotate = rotates })
				credential := open(t, sim, map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic", "refresh_token": refreshToken})
				grant := provider.Grant{}
				for range 3 {
					answer := exchange(t, sim, credential, grant)
					assert.Equal(t, rotates, answer.Grant != nil)
					if rotates {
						assert.NotEqual(t, grant.RefreshToken, answer.Grant.RefreshToken)
						assert.False(t, answer.Grant.Derived, "it replaces the operator's token")
						grant = *answer.Grant
					}
				}
				assert.Equal(t, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}, form(t, sim.Calls()[0]))

				narrow, err := credential.Narrow([]string{"read"})
				require.NoError(t, err)
				assert.Equal(t, []string{"read"}, exchange(t, sim, narrow, grant).Scope)
			})
		})
	}
}

func TestAPublicClientRefreshesWithOnlyItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim(func(c *vendorsim.OAuthClient) { c.AuthMethods, c.Secret = []string{vendorsim.None}, "" })
		exchange(t, sim, open(t, sim, map[string]any{"refresh_token": refreshToken}), provider.Grant{})
		assert.Equal(t, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}, "client_id": {clientID}}, form(t, sim.Calls()[0]))
	})
}

func TestAnAssertionIsExchangedForAToken(t *testing.T) {
	for name, inside := range map[string]bool{"scope in the form": false, "scope in the assertion": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) {
					c.AuthMethods, c.Grants = nil, []string{vendorsim.JWTBearerGrant}
					c.Keys = map[string]crypto.PublicKey{"": rsaKey().Public()}
					c.Audience, c.Subject, c.ScopeInAssertion = "https://login.example.com", "user@example.com", inside
				})
				credential := open(t, sim, map[string]any{
					"grant_type": "jwt_bearer", "private_key": keyPEM(rsaKey()), "scope": []string{"read"},
					"assertion_audience": "https://login.example.com", "assertion_subject": "user@example.com", "scope_in_assertion": inside,
				})
				exchange(t, sim, credential, provider.Grant{})
				sent := form(t, sim.Calls()[0])
				assert.Equal(t, "urn:ietf:params:oauth:grant-type:jwt-bearer", sent.Get("grant_type"))
				assert.NotContains(t, sent, "client_id")
				assert.Equal(t, !inside, sent.Has("scope"))
			})
		})
	}
}

func TestALifetimeIsReadInEveryFormat(t *testing.T) {
	for name, test := range map[string]struct {
		conduct  vendorsim.Conduct
		lifetime time.Duration
	}{
		"a number":            {vendorsim.Conduct{}, time.Hour},
		"a string":            {vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{Stringly: true}}, time.Hour},
		"missing, and a JWT":  {vendorsim.Conduct{Unstated: true, JWT: true}, time.Hour},
		"missing":             {vendorsim.Conduct{Unstated: true}, 20 * time.Minute},
		"stated, and the JWT": {vendorsim.Conduct{JWT: true}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim()
				sim.Behave(test.conduct)
				answer := exchange(t, sim, open(t, sim, map[string]any{"client_secret": clientSecret}), provider.Grant{})
				token, err := answer.Token(provider.TTL{Default: 20 * time.Minute}, provider.Token{})
				require.NoError(t, err)
				assert.InDelta(t, test.lifetime.Seconds(), time.Until(token.ExpireTime).Seconds(), 2)
				if name == "missing" {
					_, err := answer.Token(provider.TTL{}, provider.Token{})
					require.ErrorContains(t, err, "set default_ttl")
				}
			})
		})
	}
}

func TestAKeyIsReadAsOpenSSLWritesIt(t *testing.T) {
	der, err := x509.MarshalECPrivateKey(ecKey(elliptic.P256()).(*ecdsa.PrivateKey))
	require.NoError(t, err)
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	_, err = tryOpen(t, vendorsim.New(), map[string]any{"private_key": string(parameters) + string(key)})
	require.NoError(t, err)
}

func TestGuarantee3ARotatedRefreshTokenIsKeptIfTheAnswerIsUnusable(t *testing.T) {
	for name, body := range map[string]string{
		"a lifetime of zero": `{"access_token": "a", "refresh_token": "the-next-0123456789", "expires_in": 0}`,
		"a lifetime as text": `{"access_token": "a", "refresh_token": "the-next-0123456789", "expires_in": "soon"}`,
		"no access token":    `{"refresh_token": "the-next-0123456789"}`,
		"a null error":       `{"refresh_token": "the-next-0123456789", "error": null, "access_token": ""}`,
		"an invalid type":    `{"access_token": "a", "refresh_token": "the-next-0123456789", "token_type": "a type"}`,
		"an invalid scope":   `{"access_token": "a", "refresh_token": "the-next-0123456789", "scope": "a\"b"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				credential, err := tryOpen(t, vendorsim.Answer(200, body), map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic", "refresh_token": refreshToken})
				require.NoError(t, err)
				answer, err := credential.Exchange(t.Context(), provider.Grant{})
				require.NoError(t, err)
				assert.Equal(t, "the-next-0123456789", answer.Grant.RefreshToken)
				_, err = answer.Token(provider.TTL{}, provider.Token{})
				var e *provider.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, provider.InvalidResponse, e.Kind)
			})
		})
	}
}

func TestATokenThatTheNextExchangeInvalidatesIsNotRenewedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim()
		credential := open(t, sim, map[string]any{"client_secret": clientSecret, "single_token": true, "revocation_url": vendorsim.OAuthRevocationURL})
		token, err := exchange(t, sim, credential, provider.Grant{}).Token(provider.TTL{}, provider.Token{})
		require.NoError(t, err)
		assert.Equal(t, token.ExpireTime, token.RenewableFrom, "it is not renewed before")
		_, err = credential.Narrow([]string{"read"})
		require.ErrorContains(t, err, "scope: an exchange invalidates the previous token")
		require.NoError(t, credential.(provider.Revoker).Revocable(t.Context()))
		require.ErrorContains(t, credential.(provider.Revoker).Independent(), "readers cannot have tokens of their own")
	})
}

func TestOAuth2FulfillsTheProviderContract(t *testing.T) {
	vendor := func() http.Handler {
		return newSim(func(c *vendorsim.OAuthClient) {
			c.AuthMethods = []string{vendorsim.SecretBasic, vendorsim.PrivateKeyJWT}
			c.Keys = map[string]crypto.PublicKey{"": rsaKey().Public()}
		})
	}
	server := map[string]any{
		"token_url": vendorsim.OAuthTokenURL, "revocation_url": vendorsim.OAuthRevocationURL,
		"client_id": clientID, "scope": []string{"read", "write"},
	}
	with := func(more map[string]any) map[string]any {
		fields := maps.Clone(server)
		maps.Copy(fields, more)
		return fields
	}
	providertest.Test(t, providertest.Contract{Provider: oauth2.Provider{}, Kinds: map[string]providertest.Kind{
		"secret":        {Vendor: vendor, Scope: "read", Fields: with(map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic"})},
		"private key":   {Vendor: vendor, Scope: "read", Fields: with(map[string]any{"private_key": keyPEM(rsaKey())})},
		"refresh token": {Vendor: vendor, Scope: "read", Fields: with(map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic", "refresh_token": refreshToken, "grant_type": "refresh_token", "idle_expiry": 7 * 24 * 3600})},
	}})
}
