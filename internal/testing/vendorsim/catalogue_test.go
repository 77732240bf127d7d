package vendorsim_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
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
	akeneoURL   = "https://acme.cloud.akeneo.com/api/oauth/v1/token"
	dowJonesURL = "https://accounts.dowjones.com/oauth2/v1/token"
	gitHubURL   = "https://api.acme.ghe.com/app/installations/7/access_tokens"
)

// member returns a text in a JSON object.
func member(t *testing.T, text, name string) string {
	t.Helper()
	var object map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &object), text)
	value, _ := object[name].(string)
	return value
}

// asForm returns the headers of a form, with further ones.
func asForm(more map[string]string) map[string]string {
	header := maps.Clone(more)
	if header == nil {
		header = map[string]string{}
	}
	header["Content-Type"] = "application/x-www-form-urlencoded"
	return header
}

func basicHeader(secret string) map[string]string {
	return map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("id:"+secret)), "Content-Type": "application/json"}
}

func signed(t *testing.T, key *rsa.PrivateKey, claims jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(key)
	require.NoError(t, err)
	return text
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

func TestAkeneoTakesARefreshTokenOnceAndThePasswordAgain(t *testing.T) {
	sim := vendorsim.New()
	sim.AddAkeneoConnection(vendorsim.AkeneoConnection{ClientID: "id", ClientSecret: "s:ecret", Username: "user", Password: "pass"})
	signIn := func() (status int, text string) {
		return call(t, sim, http.MethodPost, akeneoURL, basicHeader("s:ecret"), `{"grant_type":"password","username":"user","password":"pass"}`)
	}
	status, text := signIn()
	require.Equal(t, http.StatusOK, status, text)
	assert.True(t, sim.Accepts(member(t, text, "access_token")))
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {member(t, text, "refresh_token")}}.Encode()
	status, text = call(t, sim, http.MethodPost, akeneoURL, asForm(basicHeader("s:ecret")), refresh)
	require.Equal(t, http.StatusOK, status, text)
	assert.True(t, sim.Accepts(member(t, text, "access_token")))
	status, _ = call(t, sim, http.MethodPost, akeneoURL, asForm(basicHeader("s:ecret")), refresh)
	assert.Equal(t, http.StatusUnprocessableEntity, status, "a refresh token is used once")
	status, _ = signIn()
	assert.Equal(t, http.StatusOK, status)
	assert.Empty(t, sim.Violations())
}

func TestDowJonesExchangesASignInOnce(t *testing.T) {
	sim := vendorsim.New()
	sim.AddDowJonesAccount(vendorsim.DowJonesAccount{ClientID: "id", Username: "user", Password: "pass"})
	status, text := call(t, sim, http.MethodPost, dowJonesURL, asForm(nil), dowJonesSignIn)
	require.Equal(t, http.StatusOK, status, text)
	assert.False(t, sim.Accepts(member(t, text, "access_token")), "the API does not accept the token of a sign-in")
	second := url.Values{
		"grant_type": {vendorsim.JWTBearerGrant}, "connection": {"service-account"}, "client_id": {"id"}, "scope": {"openid pib"},
		"access_token": {member(t, text, "access_token")}, "assertion": {member(t, text, "id_token")},
	}.Encode()
	status, text = call(t, sim, http.MethodPost, dowJonesURL, asForm(nil), second)
	require.Equal(t, http.StatusOK, status, text)
	assert.True(t, sim.Accepts(member(t, text, "access_token")))
	status, _ = call(t, sim, http.MethodPost, dowJonesURL, asForm(nil), second)
	assert.Equal(t, http.StatusForbidden, status)
	assert.Empty(t, sim.Violations())
}

const dowJonesSignIn = "client_id=id&connection=service-account&grant_type=password&password=pass&scope=openid+service_account_id&username=user"

func TestGitHubIssuesAndRevokesTokensOfAnInstallation(t *testing.T) {
	sim, key := vendorsim.New(), rsaKey(t)
	sim.AddGitHubApp(vendorsim.GitHubApp{ClientID: "id", Key: &key.PublicKey, InstallationID: "7"})
	now := time.Now().Add(-time.Second)
	status, text := call(t, sim, http.MethodPost, gitHubURL, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + signed(t, key, jwt.MapClaims{
		"iss": "id", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})}, `{"repositories": ["one"]}`)
	require.Equal(t, http.StatusCreated, status, text)
	token := member(t, text, "token")
	assert.True(t, sim.Accepts(token))
	for _, expected := range []int{http.StatusNoContent, http.StatusUnauthorized} {
		status, _ = call(t, sim, http.MethodDelete, "https://api.acme.ghe.com/installation/token", map[string]string{"Authorization": "Bearer " + token}, "")
		assert.Equal(t, expected, status)
	}
	assert.False(t, sim.Accepts(token))
	assert.Empty(t, sim.Violations())
}

func TestSnowflakeAcceptsTokensThatItsUserSigned(t *testing.T) {
	sim, key, other := vendorsim.New(), rsaKey(t), rsaKey(t)
	sim.AddSnowflakeUser("acme", "ann", &key.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	fingerprint := sha256.Sum256(der)
	issuer := "ACME.ANN.SHA256:" + base64.StdEncoding.EncodeToString(fingerprint[:])
	now := time.Now().Add(-time.Second)
	claims := func(change jwt.MapClaims) jwt.MapClaims {
		all := jwt.MapClaims{"iss": issuer, "sub": "ACME.ANN", "iat": now.Unix(), "exp": now.Add(59 * time.Minute).Unix()}
		maps.Copy(all, change)
		return all
	}
	accepted := signed(t, key, claims(nil))
	assert.True(t, sim.Accepts(accepted))
	assert.WithinDuration(t, now.Add(59*time.Minute), sim.Expiry(accepted), time.Second)
	count, expiry := sim.Issued()
	assert.Equal(t, 1, count)
	assert.Equal(t, sim.Expiry(accepted), expiry)

	long := signed(t, key, claims(jwt.MapClaims{"exp": now.Add(5 * time.Hour).Unix()}))
	assert.WithinDuration(t, now.Add(time.Hour), sim.Expiry(long), time.Second, "an hour after iat, whatever exp is")
	for name, token := range map[string]string{
		"another key":         signed(t, other, claims(nil)),
		"an unknown user":     signed(t, key, claims(jwt.MapClaims{"sub": "ACME.BOB"})),
		"another fingerprint": signed(t, key, claims(jwt.MapClaims{"iss": "ACME.ANN.SHA256:" + strings.Repeat("A", 43) + "="})),
		"expired":             signed(t, key, claims(jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()})),
		"from the future":     signed(t, key, claims(jwt.MapClaims{"iat": now.Add(time.Minute).Unix()})),
		"without iat":         signed(t, key, claims(jwt.MapClaims{"iat": nil})),
		"no JWT":              "token",
	} {
		assert.False(t, sim.Accepts(token), name)
	}
}

func TestVendorsOfDefinitionsAcceptOnlyDocumentedRequests(t *testing.T) {
	key := rsaKey(t)
	now := time.Now().Add(-time.Second)
	gitHub := func(change jwt.MapClaims) map[string]string {
		claims := jwt.MapClaims{"iss": "id", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
		maps.Copy(claims, change)
		return map[string]string{"Authorization": "Bearer " + signed(t, key, claims), "Content-Type": "application/json"}
	}
	signIn := `{"grant_type":"password","username":"user","password":"pass"}`
	for name, c := range map[string]struct {
		method, url string
		header      map[string]string
		body        string
		isViolation bool
	}{
		"Akeneo: a wrong secret":       {"POST", akeneoURL, basicHeader("other"), signIn, false},
		"Akeneo: a wrong password":     {"POST", akeneoURL, basicHeader("s:ecret"), `{"grant_type":"password","username":"user","password":"other"}`, false},
		"Akeneo: an unknown refresh":   {"POST", akeneoURL, asForm(basicHeader("s:ecret")), "grant_type=refresh_token&refresh_token=other", false},
		"Akeneo: another method":       {"PUT", akeneoURL, basicHeader("s:ecret"), signIn, true},
		"Akeneo: a query":              {"POST", akeneoURL + "?a=b", basicHeader("s:ecret"), signIn, true},
		"Akeneo: no client":            {"POST", akeneoURL, map[string]string{"Content-Type": "application/json"}, signIn, true},
		"Akeneo: a scope":              {"POST", akeneoURL, basicHeader("s:ecret"), `{"grant_type":"password","username":"user","password":"pass","scope":"a"}`, true},
		"Akeneo: an empty password":    {"POST", akeneoURL, basicHeader("s:ecret"), `{"grant_type":"password","username":"user","password":""}`, true},
		"Akeneo: another grant":        {"POST", akeneoURL, asForm(basicHeader("s:ecret")), "grant_type=client_credentials", true},
		"Akeneo: text":                 {"POST", akeneoURL, map[string]string{"Authorization": basicHeader("s:ecret")["Authorization"], "Content-Type": "text/plain"}, signIn, true},
		"Dow Jones: a wrong password":  {"POST", dowJonesURL, asForm(nil), strings.Replace(dowJonesSignIn, "password=pass&", "password=other&", 1), false},
		"Dow Jones: no sign-in":        {"POST", dowJonesURL, asForm(nil), "access_token=a&assertion=b&client_id=id&connection=service-account&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&scope=openid+pib", false},
		"Dow Jones: another scope":     {"POST", dowJonesURL, asForm(nil), strings.Replace(dowJonesSignIn, "openid+", "", 1), true},
		"Dow Jones: given twice":       {"POST", dowJonesURL, asForm(nil), dowJonesSignIn + "&client_id=id", true},
		"Dow Jones: JSON":              {"POST", dowJonesURL, map[string]string{"Content-Type": "application/json"}, `{}`, true},
		"Dow Jones: Authorization":     {"POST", dowJonesURL, asForm(map[string]string{"Authorization": "Basic aWQ6"}), dowJonesSignIn, true},
		"GitHub: an unknown app":       {"POST", gitHubURL, gitHub(jwt.MapClaims{"iss": "other"}), "", false},
		"GitHub: from the future":      {"POST", gitHubURL, gitHub(jwt.MapClaims{"iat": now.Add(time.Minute).Unix()}), "", false},
		"GitHub: another installation": {"POST", strings.Replace(gitHubURL, "/7/", "/8/", 1), gitHub(nil), "", false},
		"GitHub: too long":             {"POST", gitHubURL, gitHub(jwt.MapClaims{"exp": now.Add(11 * time.Minute).Unix()}), "", true},
		"GitHub: without iat":          {"POST", gitHubURL, gitHub(jwt.MapClaims{"iat": nil}), "", true},
		"GitHub: without a JWT":        {"POST", gitHubURL, nil, "", true},
		"GitHub: a GET":                {"GET", gitHubURL, gitHub(nil), "", true},
		"GitHub: another member":       {"POST", gitHubURL, gitHub(nil), `{"repository": "one"}`, true},
		"GitHub: another path":         {"POST", "https://api.acme.ghe.com/app", gitHub(nil), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddAkeneoConnection(vendorsim.AkeneoConnection{ClientID: "id", ClientSecret: "s:ecret", Username: "user", Password: "pass"})
			sim.AddDowJonesAccount(vendorsim.DowJonesAccount{ClientID: "id", Username: "user", Password: "pass"})
			sim.AddGitHubApp(vendorsim.GitHubApp{ClientID: "id", Key: &key.PublicKey, InstallationID: "7"})
			status, text := call(t, sim, c.method, c.url, c.header, c.body)
			assert.GreaterOrEqual(t, status, 400, text)
			assert.Equal(t, c.isViolation, len(sim.Violations()) > 0, text)
		})
	}
}
