package vendorsim_test

import (
	"crypto/rand"
	"crypto/rsa"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func call(t *testing.T, sim http.Handler, method, url string, header map[string]string, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	sim.ServeHTTP(w, r)
	answer, err := io.ReadAll(w.Body)
	require.NoError(t, err)
	return w.Code, string(answer)
}

func TestOnlyHostsOfVendorsAreSimulated(t *testing.T) {
	sim := vendorsim.New()
	sim.AddOAuthServer(vendorsim.OAuthServer{
		Issuer: "https://acme.example.com", TokenURL: "https://token.example.com/token", RevocationURL: "https://revoke.example.com/revoke",
	})
	for host, simulated := range map[string]bool{
		"link-streaming.kensho.com": true, "kensho.okta.com": true, "api.rfksrv.com": true, "auth.example.com": true,
		"acme.example.com": true, "token.example.com": true, "revoke.example.com": true,
		"other.example.com": false, "other.okta.com": false, "kensho.com": false,
	} {
		assert.Equal(t, simulated, sim.Simulates(host), host)
	}
}

func TestAVendorAcceptsOnlyDocumentedRequests(t *testing.T) {
	const (
		link     = "https://link-streaming.kensho.com/oauth2/refresh"
		scribe   = "https://scribe.kensho.com/oauth2/refresh"
		sitecore = "https://api.rfksrv.com/account/1/access-token"
	)
	json := map[string]string{"Content-Type": "application/json", "X-Api-Key": "key"}
	refresh := map[string]string{"Content-Type": "application/json", "Refresh-Token": "pair", "Authorization": "Bearer pair"}
	without := func(header map[string]string, name string) map[string]string {
		header = maps.Clone(header)
		delete(header, name)
		return header
	}
	for name, test := range map[string]struct {
		method, url string
		header      map[string]string
		body        string
		status      int
		violation   bool
	}{
		"link":                    {"GET", link + "?refreshToken=r", nil, "", 200, false},
		"another product":         {"GET", scribe + "?refresh_token=s", nil, "", 200, false},
		"link in another form":    {"GET", link + "?refresh_token=r", nil, "", 400, true},
		"two parameters":          {"GET", link + "?refreshToken=r&x=1", nil, "", 400, true},
		"a POST":                  {"POST", link + "?refreshToken=r", nil, "", 405, true},
		"another product's token": {"GET", link + "?refreshToken=s", nil, "", 401, false},
		"another host":            {"GET", "https://kensho.example/oauth2/refresh?refreshToken=r", nil, "", 404, true},
		"sitecore":                {"POST", sitecore, json, `{"scope":["discover"]}`, 200, false},
		"scope as a string":       {"POST", sitecore, json, `{"scope":"discover"}`, 400, true},
		"no scope":                {"POST", sitecore, json, `{}`, 400, true},
		"an unknown member":       {"POST", sitecore, json, `{"scope":["discover"],"expiry":1}`, 400, true},
		"an expiry of zero":       {"POST", sitecore, json, `{"scope":["discover"],"accessExpiry":0}`, 400, true},
		"another content type":    {"POST", sitecore, without(json, "Content-Type"), `{"scope":["discover"]}`, 415, true},
		"no API key":              {"POST", sitecore, without(json, "X-Api-Key"), `{"scope":["discover"]}`, 401, false},
		"a refresh":               {"PUT", sitecore, refresh, "", 200, false},
		"without Refresh-Token":   {"PUT", sitecore, without(refresh, "Refresh-Token"), "", 400, true},
		"without Authorization":   {"PUT", sitecore, without(refresh, "Authorization"), "", 400, true},
		"a GET":                   {"GET", sitecore, json, "", 405, true},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddRefreshToken("link-streaming", "r")
			sim.AddRefreshToken("scribe", "s")
			sim.AddAPIKey("key")
			sim.AddPair("pair", time.Hour, time.Hour)
			status, answer := call(t, sim, test.method, test.url, test.header, test.body)
			assert.Equal(t, test.status, status, answer)
			assert.Equal(t, test.violation, len(sim.Violations()) == 1)
		})
	}
}

func TestKenshoChecksEveryPartOfAnAssertion(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	const tokenURL = "https://kensho.okta.com/oauth2/default/v1/token"
	now := time.Now()

	for name, test := range map[string]struct {
		change func(claims jwt.MapClaims, form url.Values)
		method jwt.SigningMethod
		key    *rsa.PrivateKey
		kid    string
		status int
	}{
		"as documented":     {nil, jwt.SigningMethodRS256, key, "", 200},
		"another key":       {nil, jwt.SigningMethodRS256, other, "", 401},
		"another alg":       {nil, jwt.SigningMethodPS256, key, "", 401},
		"an unexpected kid": {nil, jwt.SigningMethodRS256, key, "k", 401},
		"another audience":  {func(c jwt.MapClaims, _ url.Values) { c["aud"] = "https://kensho.okta.com" }, jwt.SigningMethodRS256, key, "", 401},
		"no exp":            {func(c jwt.MapClaims, _ url.Values) { delete(c, "exp") }, jwt.SigningMethodRS256, key, "", 401},
		"exp in the past":   {func(c jwt.MapClaims, _ url.Values) { c["exp"] = now.Add(-time.Hour).Unix() }, jwt.SigningMethodRS256, key, "", 401},
		"exp too far":       {func(c jwt.MapClaims, _ url.Values) { c["exp"] = now.Add(2 * time.Hour).Unix() }, jwt.SigningMethodRS256, key, "", 401},
		"no iat":            {func(c jwt.MapClaims, _ url.Values) { delete(c, "iat") }, jwt.SigningMethodRS256, key, "", 401},
		"another sub":       {func(c jwt.MapClaims, _ url.Values) { c["sub"] = "someone" }, jwt.SigningMethodRS256, key, "", 401},
		"no jti":            {func(c jwt.MapClaims, _ url.Values) { delete(c, "jti") }, jwt.SigningMethodRS256, key, "", 401},
		"an unknown client": {func(c jwt.MapClaims, _ url.Values) { c["iss"], c["sub"] = "x", "x" }, jwt.SigningMethodRS256, key, "", 401},
		"another grant":     {func(_ jwt.MapClaims, f url.Values) { f.Set("grant_type", "password") }, jwt.SigningMethodRS256, key, "", 400},
		"another field":     {func(_ jwt.MapClaims, f url.Values) { f.Set("client_id", "c") }, jwt.SigningMethodRS256, key, "", 400},
		"no scope":          {func(_ jwt.MapClaims, f url.Values) { f.Del("scope") }, jwt.SigningMethodRS256, key, "", 400},
		"a foreign scope":   {func(_ jwt.MapClaims, f url.Values) { f.Set("scope", "openid") }, jwt.SigningMethodRS256, key, "", 400},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddClient("c", &key.PublicKey, "")
			claims := jwt.MapClaims{"iss": "c", "sub": "c", "aud": tokenURL, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "jti": rand.Text()}
			form := url.Values{
				"grant_type":            {"client_credentials"},
				"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
				"scope":                 {"kensho:app:link"},
			}
			if test.change != nil {
				test.change(claims, form)
			}
			token := jwt.NewWithClaims(test.method, claims)
			if test.kid != "" {
				token.Header["kid"] = test.kid
			}
			assertion, err := token.SignedString(test.key)
			require.NoError(t, err)
			form.Set("client_assertion", assertion)
			header := map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}

			status, answer := call(t, sim, http.MethodPost, tokenURL, header, form.Encode())
			assert.Equal(t, test.status, status, answer)
			if status == http.StatusOK {
				status, _ = call(t, sim, http.MethodPost, tokenURL, header, form.Encode())
				assert.Equal(t, http.StatusUnauthorized, status, "an assertion can be used once")
			}
		})
	}
}
