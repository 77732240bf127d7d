package vendorsim_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// client has an ID and a secret that must be escaped in Basic authentication.
var client = vendorsim.OAuthClient{
	ID: "client:1", Secret: "s%+:/ t",
	AuthMethods: []string{vendorsim.SecretBasic, vendorsim.SecretPost},
	Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	Scopes:      []string{"read", "write"},
}

var public = vendorsim.OAuthClient{
	ID: "public", AuthMethods: []string{vendorsim.None}, Grants: []string{vendorsim.RefreshTokenGrant},
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// answered is the response of a server to a form.
type answered struct {
	status int
	header http.Header
	body   map[string]any
}

func post(t *testing.T, sim http.Handler, to, authorization string, form url.Values) answered {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, to, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	sim.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Header()}
	if w.Body.Len() > 0 {
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a.body))
	}
	return a
}

func (a answered) token() string        { return a.string("access_token") }
func (a answered) refreshToken() string { return a.string("refresh_token") }
func (a answered) error() string        { return a.string("error") }

func (a answered) string(member string) string {
	text, _ := a.body[member].(string)
	return text
}

func form(pairs ...string) url.Values {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	return values
}

func TestAnAuthorizationServerAcceptsOnlyStandardRequests(t *testing.T) {
	formHeader := map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Authorization": basic(client.ID, client.Secret)}
	without := func(name string) map[string]string {
		header := maps.Clone(formHeader)
		delete(header, name)
		return header
	}
	with := func(name, value string) map[string]string {
		header := maps.Clone(formHeader)
		header[name] = value
		return header
	}
	const (
		ask  = "grant_type=client_credentials"
		post = ask + "&client_id=client%3A1&client_secret=s%25%2B%3A%2F+t"
		none = "grant_type=refresh_token&refresh_token=p&client_id=public"
	)
	for name, test := range map[string]struct {
		method, query string
		header        map[string]string
		body          string
		status        int
		code          string
		violation     bool
	}{
		"Basic":                       {"POST", "", formHeader, ask, 200, "", false},
		"with a character set":        {"POST", "", with("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"), ask, 200, "", false},
		"with its client_id too":      {"POST", "", formHeader, ask + "&client_id=client%3A1", 200, "", false},
		"an empty parameter":          {"POST", "", formHeader, ask + "&audience=", 200, "", false},
		"post":                        {"POST", "", without("Authorization"), post, 200, "", false},
		"none":                        {"POST", "", without("Authorization"), none, 200, "", false},
		"a GET":                       {"GET", "", formHeader, ask, 400, "invalid_request", true},
		"a query":                     {"POST", "?client_secret=s", formHeader, ask, 400, "invalid_request", true},
		"no content type":             {"POST", "", without("Content-Type"), ask, 400, "invalid_request", true},
		"JSON":                        {"POST", "", with("Content-Type", "application/json"), "{}", 400, "invalid_request", true},
		"an invalid form":             {"POST", "", formHeader, ask + "&%zz", 400, "invalid_request", true},
		"a parameter twice":           {"POST", "", formHeader, ask + "&scope=read&scope=read", 400, "invalid_request", true},
		"a non-standard parameter":    {"POST", "", formHeader, ask + "&audience=a", 400, "invalid_request", true},
		"one of another grant":        {"POST", "", formHeader, ask + "&refresh_token=r", 400, "invalid_request", true},
		"no grant_type":               {"POST", "", formHeader, "scope=read", 400, "invalid_request", true},
		"a grant without its token":   {"POST", "", formHeader, "grant_type=refresh_token", 400, "invalid_request", true},
		"an unknown grant":            {"POST", "", formHeader, "grant_type=password", 400, "unsupported_grant_type", false},
		"a grant of another client":   {"POST", "", without("Authorization"), "grant_type=client_credentials&client_id=public", 400, "unauthorized_client", false},
		"two authentications":         {"POST", "", formHeader, post, 400, "invalid_request", true},
		"a bearer token":              {"POST", "", with("Authorization", "Bearer x"), ask, 400, "invalid_request", true},
		"another client_id":           {"POST", "", formHeader, ask + "&client_id=public", 400, "invalid_request", true},
		"no client":                   {"POST", "", without("Authorization"), ask, 401, "invalid_client", true},
		"an unknown client":           {"POST", "", with("Authorization", basic("x", client.Secret)), ask, 401, "invalid_client", false},
		"a wrong secret":              {"POST", "", with("Authorization", basic(client.ID, "x")), ask, 401, "invalid_client", false},
		"a wrong secret in the form":  {"POST", "", without("Authorization"), ask + "&client_id=client%3A1&client_secret=x", 401, "invalid_client", false},
		"no secret":                   {"POST", "", without("Authorization"), ask + "&client_id=client%3A1", 401, "invalid_client", false},
		"a secret of a public client": {"POST", "", with("Authorization", basic("public", "")), none, 401, "invalid_client", false},
		"an ID that is not escaped": {
			"POST", "", with("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("client%3A1:s%+:/ t"))), ask, 400, "invalid_request", true,
		},
		"a scope that is not allowed": {"POST", "", formHeader, ask + "&scope=read+admin", 400, "invalid_scope", false},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddOAuthClient(client)
			sim.AddOAuthClient(public)
			sim.AddOAuthRefreshToken(public, "p")
			status, answer := call(t, sim, test.method, vendorsim.OAuthTokenURL+test.query, test.header, test.body)
			assert.Equal(t, test.status, status, answer)
			var body struct{ Error string }
			require.NoError(t, json.Unmarshal([]byte(answer), &body))
			assert.Equal(t, test.code, body.Error, answer)
			assert.Equal(t, test.violation, len(sim.Violations()) == 1, sim.Violations())
		})
	}
}

func TestAServerAcceptsOnlyItsOwnClients(t *testing.T) {
	sim := vendorsim.New()
	sim.AddOAuthServer(vendorsim.OAuthServer{Issuer: "https://other.example", TokenURL: "https://other.example/token"})
	sim.AddOAuthClient(client)
	ask := form("grant_type", "client_credentials")
	assert.Equal(t, 200, post(t, sim, vendorsim.OAuthTokenURL, basic(client.ID, client.Secret), ask).status)
	assert.Equal(t, "invalid_client", post(t, sim, "https://other.example/token", basic(client.ID, client.Secret), ask).error())

	sim.RevokeCredential(client.ID)
	assert.Equal(t, "invalid_client", post(t, sim, vendorsim.OAuthTokenURL, basic(client.ID, client.Secret), ask).error())
	assert.Empty(t, sim.Violations())
}

func TestARefusalHasTheVendorsFormat(t *testing.T) {
	for name, test := range map[string]struct {
		conduct      vendorsim.OAuthConduct
		status       int
		authenticate string
		body         map[string]any
	}{
		"RFC 6749": {vendorsim.OAuthConduct{}, 401, `Basic realm="oauth2"`, map[string]any{"error": "invalid_client", "error_description": "wrong client secret"}},
		"with 400": {vendorsim.OAuthConduct{BadClient400: true}, 400, "", map[string]any{"error": "invalid_client", "error_description": "wrong client secret"}},
		"Slack":    {vendorsim.OAuthConduct{Slack: true}, 200, "", map[string]any{"error": "bad_client_secret", "ok": false}},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddOAuthClient(client)
			sim.Behave(vendorsim.Conduct{OAuth: test.conduct})
			a := post(t, sim, vendorsim.OAuthTokenURL, basic(client.ID, "x"), form("grant_type", "client_credentials"))
			assert.Equal(t, test.status, a.status)
			assert.Equal(t, test.authenticate, a.header.Get("WWW-Authenticate"))
			assert.Equal(t, "no-store", a.header.Get("Cache-Control"))
			assert.Equal(t, test.body, a.body)
		})
	}
}

func get(t *testing.T, sim http.Handler, from string) answered {
	t.Helper()
	status, body := call(t, sim, http.MethodGet, from, nil, "")
	a := answered{status: status}
	require.NoError(t, json.Unmarshal([]byte(body), &a.body))
	return a
}
