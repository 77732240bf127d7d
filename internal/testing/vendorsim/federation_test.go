package vendorsim_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	issuerURL    = "https://vault.example.com/v1/tokens/jwks/prod"
	entraURL     = "https://login.microsoftonline.com/acme.example/oauth2/v2.0/token"
	stsURL       = "https://sts.googleapis.com/v1/token"
	accountURL   = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/billing@acme.iam.gserviceaccount.com:generateAccessToken"
	poolProvider = "projects/1/locations/global/workloadIdentityPools/vault/providers/vault"
)

// newFederation returns vendors that trust the subject "billing" of an issuer.
func newFederation() *vendorsim.Sim {
	sim := vendorsim.New()
	sim.AddIdentityProvider(issuerURL, vendorsim.Issuer{URL: issuerURL}.Fetch)
	sim.AddEntraApp(vendorsim.EntraApp{
		Tenant: "acme.example", ClientID: "app", Subject: "billing", Trust: vendorsim.Trust{Issuer: issuerURL, Audiences: []string{vendorsim.EntraAudience}},
	})
	sim.AddGooglePool(vendorsim.GooglePool{Provider: poolProvider, Issuer: issuerURL, ServiceAccounts: map[string][]string{"billing": {"billing@acme.iam.gserviceaccount.com"}}})
	return sim
}

// federatedToken returns a token of the issuer with other claims and headers; nil leaves one out.
func federatedToken(t *testing.T, audience string, claims, header map[string]any) string {
	t.Helper()
	now := time.Now().Add(-time.Second)
	all := jwt.MapClaims{"iss": issuerURL, "sub": "billing", "aud": audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, all)
	token.Header["kid"] = vendorsim.Issuer{}.KeyID()
	maps.Copy(token.Header, header)
	key := vendorsim.Issuer{}.Key()
	if header["key"] != nil {
		key = rsaKey(t)
	}
	signed, err := token.SignedString(key)
	require.NoError(t, err)
	return signed
}

func entraForm(assertion string, change map[string]string) string {
	form := url.Values{
		"client_id": {"app"}, "client_assertion": {assertion}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"grant_type": {"client_credentials"}, "scope": {"https://graph.microsoft.com/.default"},
	}
	for name, value := range change {
		form.Set(name, value)
	}
	return form.Encode()
}

func stsBody(t *testing.T, token string, change map[string]any) string {
	t.Helper()
	body := map[string]any{
		"grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": "//iam.googleapis.com/" + poolProvider, "scope": vendorsim.GoogleScope,
		"requestedTokenType": "urn:ietf:params:oauth:token-type:access_token", "subjectToken": token, "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt",
	}
	maps.Copy(body, change)
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return string(text)
}

var asJSON = map[string]string{"Content-Type": "application/json"}

func TestEntraAndGoogleAcceptATokenOfAnIssuerThatTheyTrust(t *testing.T) {
	sim := newFederation()
	status, text := call(t, sim, http.MethodPost, entraURL, asForm(nil), entraForm(federatedToken(t, vendorsim.EntraAudience, nil, nil), nil))
	require.Equal(t, http.StatusOK, status, text)
	assert.True(t, sim.Accepts(member(t, text, "access_token")))
	status, text = call(t, sim, http.MethodPost, stsURL, asJSON, stsBody(t, federatedToken(t, "https://iam.googleapis.com/"+poolProvider, nil, nil), nil))
	require.Equal(t, http.StatusOK, status, text)
	direct := member(t, text, "access_token")
	assert.True(t, sim.Accepts(direct), "the subject itself can have access")
	status, text = call(t, sim, http.MethodPost, accountURL, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + direct}, `{"scope": ["`+vendorsim.GoogleScope+`"], "lifetime": "600s"}`)
	require.Equal(t, http.StatusOK, status, text)
	assert.WithinDuration(t, time.Now().Add(10*time.Minute), sim.Expiry(member(t, text, "accessToken")), 5*time.Second)
	assert.Empty(t, sim.Violations())
}

func TestEntraAndGoogleRefuseAnyOtherToken(t *testing.T) {
	later := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, test := range map[string]struct {
		claims, header map[string]any
		isViolation    bool // no configuration could cause it
	}{
		"another issuer":         {map[string]any{"iss": issuerURL + "/"}, nil, false},
		"another audience":       {map[string]any{"aud": "vault"}, nil, false},
		"two audiences":          {map[string]any{"aud": []string{vendorsim.EntraAudience, "https://iam.googleapis.com/" + poolProvider}}, nil, true},
		"no audience":            {map[string]any{"aud": nil}, nil, true},
		"no subject":             {map[string]any{"sub": nil}, nil, true},
		"a subject of 128":       {map[string]any{"sub": strings.Repeat("s", 128)}, nil, true},
		"expired":                {map[string]any{"exp": later(-2 * time.Minute)}, nil, false},
		"without exp":            {map[string]any{"exp": nil}, nil, true},
		"valid for two days":     {map[string]any{"exp": later(48 * time.Hour)}, nil, true},
		"without iat":            {map[string]any{"iat": nil}, nil, true},
		"from the future":        {map[string]any{"iat": later(2 * time.Minute)}, nil, false},
		"without a key ID":       {nil, map[string]any{"kid": ""}, true},
		"an unpublished key":     {nil, map[string]any{"kid": "other"}, false},
		"signed by another key":  {nil, map[string]any{"key": true}, false},
		"an algorithm of no one": {nil, map[string]any{"alg": "RS384"}, false},
	} {
		for vendor, send := range map[string]func(*vendorsim.Sim) (int, string){
			"Entra": func(sim *vendorsim.Sim) (int, string) {
				return call(t, sim, http.MethodPost, entraURL, asForm(nil), entraForm(federatedToken(t, vendorsim.EntraAudience, test.claims, test.header), nil))
			},
			"Google": func(sim *vendorsim.Sim) (int, string) {
				return call(t, sim, http.MethodPost, stsURL, asJSON, stsBody(t, federatedToken(t, "https://iam.googleapis.com/"+poolProvider, test.claims, test.header), nil))
			},
		} {
			sim := newFederation()
			status, text := send(sim)
			assert.GreaterOrEqual(t, status, 400, "%s: %s: %s", vendor, name, text)
			assert.Equal(t, test.isViolation, len(sim.Violations()) > 0, "%s: %s: %s", vendor, name, text)
		}
	}
}

func TestEntraAndGoogleReadTheDocumentsOfAnIssuerStrictly(t *testing.T) {
	issuer := vendorsim.Issuer{URL: issuerURL}
	for name, test := range map[string]struct {
		fetch       vendorsim.Fetch
		isViolation bool
	}{
		"nothing there":       {func(string) (int, []byte) { return http.StatusNotFound, nil }, false},
		"no JSON":             {func(string) (int, []byte) { return http.StatusOK, []byte("<html>") }, true},
		"of another issuer":   {replacing(issuer, `"issuer":"`+issuerURL, `"issuer":"https://other.example`), true},
		"keys without TLS":    {replacing(issuer, `"jwks_uri":"https`, `"jwks_uri":"http`), true},
		"no algorithms":       {replacing(issuer, `["RS256"]`, `[]`), true},
		"another key":         {replacing(issuer, issuer.KeyID(), "other"), false},
		"no keys at jwks_uri": {replacing(issuer, "/keys", "/none"), false},
	} {
		sim := newFederation()
		sim.AddIdentityProvider(issuerURL, test.fetch)
		status, text := call(t, sim, http.MethodPost, entraURL, asForm(nil), entraForm(federatedToken(t, vendorsim.EntraAudience, nil, nil), nil))
		assert.Equal(t, http.StatusUnauthorized, status, "%s: %s", name, text)
		assert.Equal(t, test.isViolation, len(sim.Violations()) > 0, "%s: %s", name, text)
	}
}

// replacing answers as an issuer, with another text in its documents.
func replacing(issuer vendorsim.Issuer, old, text string) vendorsim.Fetch {
	return func(url string) (int, []byte) {
		status, body := issuer.Fetch(url)
		return status, bytes.ReplaceAll(body, []byte(old), []byte(text))
	}
}

func TestEntraAndGoogleAcceptOnlyDocumentedRequests(t *testing.T) {
	good := func(audience string) string { return federatedToken(t, audience, nil, nil) }
	entra, google := good(vendorsim.EntraAudience), good("https://iam.googleapis.com/"+poolProvider)
	for name, c := range map[string]struct {
		url         string
		header      map[string]string
		body        string
		isViolation bool
	}{
		"Entra: another application":    {entraURL, asForm(nil), entraForm(entra, map[string]string{"client_id": "other"}), false},
		"Entra: another tenant":         {strings.Replace(entraURL, "acme", "other", 1), asForm(nil), entraForm(entra, nil), false},
		"Entra: another subject":        {entraURL, asForm(nil), entraForm(federatedToken(t, vendorsim.EntraAudience, map[string]any{"sub": "payroll"}, nil), nil), false},
		"Entra: a permission":           {entraURL, asForm(nil), entraForm(entra, map[string]string{"scope": "https://graph.microsoft.com/User.Read"}), true},
		"Entra: a secret as well":       {entraURL, asForm(nil), entraForm(entra, map[string]string{"client_secret": "s"}), true},
		"Entra: Basic":                  {entraURL, asForm(map[string]string{"Authorization": "Basic YTpi"}), entraForm(entra, nil), true},
		"Entra: another grant":          {entraURL, asForm(nil), entraForm(entra, map[string]string{"grant_type": "password"}), true},
		"Entra: another path":           {"https://login.microsoftonline.com/acme.example/oauth2/token", asForm(nil), entraForm(entra, nil), true},
		"Google: another provider":      {stsURL, asJSON, stsBody(t, google, map[string]any{"audience": "//iam.googleapis.com/other"}), false},
		"Google: no scope":              {stsURL, asJSON, stsBody(t, google, map[string]any{"scope": ""}), true},
		"Google: another member":        {stsURL, asJSON, stsBody(t, google, map[string]any{"subject_token": google}), true},
		"Google: another type":          {stsURL, asJSON, stsBody(t, google, map[string]any{"subjectTokenType": "urn:ietf:params:oauth:token-type:saml2"}), true},
		"Google: another grant":         {stsURL, asJSON, stsBody(t, google, map[string]any{"grantType": "client_credentials"}), true},
		"Google: Authorization":         {stsURL, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer a"}, stsBody(t, google, nil), true},
		"Google: a form":                {stsURL, asForm(nil), "grant_type=a", true},
		"IAM: no token":                 {accountURL, asJSON, `{"scope": ["` + vendorsim.GoogleScope + `"], "lifetime": "600s"}`, true},
		"IAM: an unknown token":         {accountURL, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer a"}, `{"scope": ["` + vendorsim.GoogleScope + `"], "lifetime": "600s"}`, false},
		"IAM: a lifetime in minutes":    {accountURL, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer a"}, `{"scope": ["` + vendorsim.GoogleScope + `"], "lifetime": "10m"}`, true},
		"IAM: a scope as a text":        {accountURL, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer a"}, `{"scope": "a", "lifetime": "600s"}`, true},
		"IAM: another method of theirs": {strings.Replace(accountURL, "generateAccessToken", "signJwt", 1), asJSON, `{}`, true},
	} {
		sim := newFederation()
		status, text := call(t, sim, http.MethodPost, c.url, c.header, c.body)
		assert.GreaterOrEqual(t, status, 400, "%s: %s", name, text)
		assert.Equal(t, c.isViolation, len(sim.Violations()) > 0, "%s: %s", name, text)
	}
	sim := newFederation()
	_, text := call(t, sim, http.MethodPost, stsURL, asJSON, stsBody(t, federatedToken(t, "//iam.googleapis.com/"+poolProvider, map[string]any{"sub": "payroll"}, nil), nil))
	header := map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + member(t, text, "access_token")}
	status, text := call(t, sim, http.MethodPost, accountURL, header, `{"scope": ["`+vendorsim.GoogleScope+`"], "lifetime": "600s"}`)
	assert.Equal(t, http.StatusForbidden, status, text)
	assert.Empty(t, sim.Violations())
}
