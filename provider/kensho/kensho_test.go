package kensho_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
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
	"vault-plugin-secrets-tokenbroker/internal/version"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/kensho"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func keyPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key())}))
}

func open(t *testing.T, sim *vendorsim.Sim, fields map[string]any) provider.Credential {
	t.Helper()
	return openWith(t, sim, nil, fields)
}

func openWith(t *testing.T, sim *vendorsim.Sim, clocks *provider.Clocks, fields map[string]any) provider.Credential {
	t.Helper()
	client, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second, Transport: sim.Transport(), Clocks: clocks})
	require.NoError(t, err)
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	credential, err := kensho.Provider{}.Open(provider.Settings{Fields: raw, Client: client, WriteTime: time.Now()})
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

// userAgent returns the only header that the vendor does not document.
func userAgent() []string {
	return []string{"vault-plugin-secrets-tokenbroker/" + version.Version}
}

func TestARefreshIsSentInTheDialectOfTheProduct(t *testing.T) {
	for product, want := range map[string]string{
		"":         "https://link-streaming.kensho.com/oauth2/refresh?refreshToken=a%2Brefresh%2Ftoken",
		"link":     "https://link-streaming.kensho.com/oauth2/refresh?refreshToken=a%2Brefresh%2Ftoken",
		"scribe":   "https://scribe.kensho.com/oauth2/refresh?refresh_token=a%2Brefresh%2Ftoken",
		"kfinance": "https://kfinance.kensho.com/oauth2/refresh?refresh_token=a%2Brefresh%2Ftoken",
	} {
		t.Run(product, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				host, _, _ := strings.Cut(strings.TrimPrefix(want, "https://"), ".kensho")
				sim.AddRefreshToken(host, "a+refresh/token")
				fields := map[string]any{"refresh_token": "a+refresh/token"}
				if product != "" {
					fields["product"] = product
				}
				answer := exchange(t, sim, open(t, sim, fields), provider.Grant{})
				assert.Equal(t, []vendorsim.Call{{
					Method: http.MethodGet,
					URL:    want,
					Header: http.Header{"User-Agent": userAgent(), "Cache-Control": {"no-cache, no-store"}},
				}}, sim.Calls())
				assert.True(t, answer.OnTheHour)
				assert.Nil(t, answer.Grant)
			})
		})
	}
}

func TestARefreshURLKeepsTheDialectAndItsOwnQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		_, err := open(t, sim, map[string]any{
			"refresh_token": "r", "product": "scribe", "refresh_url": "https://proxy.example/kensho/refresh?tenant=7",
		}).Exchange(t.Context(), provider.Grant{})
		require.Error(t, err, "there is no vendor at the URL")
		assert.Equal(t, "https://proxy.example/kensho/refresh?refresh_token=r&tenant=7", sim.Calls()[0].URL)
	})
}

func TestARotatedRefreshTokenIsUsedNext(t *testing.T) {
	for product, host := range map[string]string{"link": "link-streaming", "scribe": "scribe"} {
		t.Run(product, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.Behave(vendorsim.Conduct{Rotate: true})
				sim.AddRefreshToken(host, "first")
				credential := open(t, sim, map[string]any{"product": product, "refresh_token": "first"})

				answer := exchange(t, sim, credential, provider.Grant{})
				require.NotNil(t, answer.Grant)
				assert.False(t, answer.Grant.Derived, "it replaces the operator's token")
				again := exchange(t, sim, credential, *answer.Grant)
				assert.NotEqual(t, answer.Grant.RefreshToken, again.Grant.RefreshToken)
			})
		})
	}
}

func TestARotatedRefreshTokenIsStoredDespiteInvalidMembers(t *testing.T) {
	for product, names := range map[string][2]string{"link": {"accessToken", "refreshToken"}, "scribe": {"access_token", "refresh_token"}} {
		for _, token := range []string{`7`, `true`, `["at"]`, `{"value":"at"}`, `null`, `""`} {
			sim := vendorsim.New()
			sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusOK, fmt.Sprintf(`{%q: %s, %q: "next"}`, names[0], token, names[1])))})
			answer, err := open(t, sim, map[string]any{"product": product, "refresh_token": "first"}).Exchange(t.Context(), provider.Grant{})
			require.NoError(t, err)
			_, err = answer.Token(provider.TTL{}, provider.Token{})
			require.ErrorContains(t, err, "contains no access token")
			assert.Equal(t, &provider.Grant{RefreshToken: "next"}, answer.Grant)
		}
	}
}

func TestAKeyPairIsSentAsAnAssertion(t *testing.T) {
	der, err := x509.MarshalPKCS8PrivateKey(key())
	require.NoError(t, err)
	pkcs8 := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, test := range map[string]struct {
		fields map[string]any
		kid    string
		scope  string
	}{
		"as in the vendor's samples": {map[string]any{"private_key": keyPEM()}, "", "kensho:app:link"},
		"PKCS#8, with a key ID":      {map[string]any{"private_key": string(pkcs8), "key_id": "key-7"}, "key-7", "kensho:app:link"},
		"another product":            {map[string]any{"private_key": string(pkcs8), "product": "nerd"}, "", "kensho:app:nerd"},
		"several scopes":             {map[string]any{"private_key": string(pkcs8), "scope": []string{"kensho:app:link", "kensho:app:nerd"}}, "", "kensho:app:link kensho:app:nerd"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.AddClient("0oaclient", &key().PublicKey, test.kid)
				test.fields["client_id"] = "0oaclient"
				credential := open(t, sim, test.fields)
				answer := exchange(t, sim, credential, provider.Grant{})
				assert.Equal(t, time.Hour, answer.ExpiresIn)
				assert.Equal(t, strings.Fields(test.scope), answer.Scope)

				call := sim.Calls()[0]
				const tokenURL = "https://kensho.okta.com/oauth2/default/v1/token"
				assert.Equal(t, http.MethodPost, call.Method)
				assert.Equal(t, tokenURL, call.URL)
				assert.Equal(t, http.Header{
					"User-Agent":    userAgent(),
					"Cache-Control": {"no-cache, no-store"},
					"Content-Type":  {"application/x-www-form-urlencoded"},
					"Accept":        {"application/json"},
				}, call.Header)
				form, err := url.ParseQuery(call.Body)
				require.NoError(t, err)
				assertion := form.Get("client_assertion")
				assert.Equal(t, url.Values{
					"grant_type":            {"client_credentials"},
					"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
					"client_assertion":      {assertion},
					"scope":                 {test.scope},
				}, form)

				claims := jwt.MapClaims{}
				token, err := jwt.ParseWithClaims(assertion, claims, func(*jwt.Token) (any, error) { return &key().PublicKey, nil }, jwt.WithTimeFunc(time.Now))
				require.NoError(t, err)
				header := map[string]any{"alg": "RS256", "typ": "JWT"}
				if test.kid != "" {
					header["kid"] = test.kid
				}
				assert.Equal(t, header, token.Header)
				issued := float64(time.Now().Unix() - 3) // assertionAge
				assert.Equal(t, jwt.MapClaims{
					"iss": "0oaclient", "sub": "0oaclient", "aud": tokenURL,
					"iat": issued, "exp": claims["exp"], "jti": claims["jti"],
				}, claims)
				assert.InDelta(t, 120, claims["exp"].(float64)-issued, 0, "seconds")
				assert.GreaterOrEqual(t, len(claims["jti"].(string)), 32)

				exchange(t, sim, credential, provider.Grant{}) // the vendor refuses a repeated jti
			})
		})
	}
}

func TestARejectedKeyPairIsNotTriedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		_, err := open(t, sim, map[string]any{"client_id": "0oa-nobody", "private_key": keyPEM()}).Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "invalid_client")
		assert.Len(t, sim.Calls(), 1)
	})
}

func TestAPastedTokenIsNotExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		time.Sleep(10 * time.Minute)
		credential := open(t, sim, map[string]any{"access_token": "pasted"})
		answer, err := credential.Exchange(t.Context(), provider.Grant{})
		require.NoError(t, err)
		assert.Equal(t, "pasted", answer.AccessToken)

		time.Sleep(time.Hour)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		var e *provider.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, provider.Expired, e.Kind)
		assert.Empty(t, sim.Calls())
	})
}

func TestKenshoFulfillsTheProviderContract(t *testing.T) {
	vendor := func() http.Handler {
		sim := vendorsim.New()
		sim.AddRefreshToken("link-streaming", "refresh-token-0123456789")
		sim.AddClient("0oaclient", &key().PublicKey, "")
		return sim
	}
	providertest.Test(t, providertest.Contract{Provider: kensho.Provider{}, Kinds: map[string]providertest.Kind{
		"refresh token": {Vendor: vendor, Fields: map[string]any{"refresh_token": "refresh-token-0123456789"}},
		"access token":  {Vendor: vendor, Offline: true, Fields: map[string]any{"access_token": "access-token-0123456789"}},
		"key pair": {Vendor: vendor, Scope: "kensho:app:link", Fields: map[string]any{
			"client_id": "0oaclient", "private_key": keyPEM(), "scope": []string{"kensho:app:link", "kensho:app:nerd"},
		}},
	}})
}
