package vendorsim_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// keys are key pairs of each kind.
type keys struct {
	rsa, other *rsa.PrivateKey
	p256, p384 *ecdsa.PrivateKey
}

func newKeys(t *testing.T) (k keys) {
	t.Helper()
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	k.other, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	return k
}

func (k keys) public() map[string]crypto.PublicKey {
	return map[string]crypto.PublicKey{"": &k.rsa.PublicKey, "p256": &k.p256.PublicKey, "p384": &k.p384.PublicKey}
}

func sign(t *testing.T, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	signed, err := token.SignedString(key)
	require.NoError(t, err)
	return signed
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func TestEveryPartOfAClientAssertionIsChecked(t *testing.T) {
	k := newKeys(t)
	now := time.Now()
	claim := func(name string, value any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[name] = value } }
	without := func(name string) func(jwt.MapClaims) { return func(c jwt.MapClaims) { delete(c, name) } }
	asIs := func(jwt.MapClaims) {}
	for name, test := range map[string]struct {
		method    jwt.SigningMethod
		key       any
		kid       string
		change    func(jwt.MapClaims)
		status    int
		violation bool
	}{
		"RS256":                    {jwt.SigningMethodRS256, k.rsa, "", asIs, 200, false},
		"PS256":                    {jwt.SigningMethodPS256, k.rsa, "", asIs, 200, false},
		"RS512":                    {jwt.SigningMethodRS512, k.rsa, "", asIs, 200, false},
		"ES256":                    {jwt.SigningMethodES256, k.p256, "p256", asIs, 200, false},
		"ES384":                    {jwt.SigningMethodES384, k.p384, "p384", asIs, 200, false},
		"the issuer as aud":        {jwt.SigningMethodRS256, k.rsa, "", claim("aud", vendorsim.OAuthIssuer), 200, false},
		"aud in a list":            {jwt.SigningMethodRS256, k.rsa, "", claim("aud", []string{vendorsim.OAuthTokenURL}), 200, false},
		"a clock a bit off":        {jwt.SigningMethodRS256, k.rsa, "", claim("iat", now.Add(30*time.Second).Unix()), 200, false},
		"another key":              {jwt.SigningMethodRS256, k.other, "", asIs, 401, false},
		"a key not registered":     {jwt.SigningMethodRS256, k.rsa, "k", asIs, 401, false},
		"another kind of key":      {jwt.SigningMethodES256, k.p256, "", asIs, 401, false},
		"another curve":            {jwt.SigningMethodES256, k.p256, "p384", asIs, 401, false},
		"an unknown algorithm":     {jwt.SigningMethodHS256, []byte("key"), "", asIs, 401, true},
		"no signature":             {jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", asIs, 401, true},
		"an unknown client":        {jwt.SigningMethodRS256, k.rsa, "", claim("iss", "x"), 401, false},
		"another sub":              {jwt.SigningMethodRS256, k.rsa, "", claim("sub", "x"), 401, true},
		"another audience":         {jwt.SigningMethodRS256, k.rsa, "", claim("aud", "https://other.example"), 401, false},
		"more than one aud":        {jwt.SigningMethodRS256, k.rsa, "", claim("aud", []string{vendorsim.OAuthTokenURL, "https://other.example"}), 401, true},
		"no aud":                   {jwt.SigningMethodRS256, k.rsa, "", without("aud"), 401, true},
		"no iat":                   {jwt.SigningMethodRS256, k.rsa, "", without("iat"), 401, true},
		"iat in the future":        {jwt.SigningMethodRS256, k.rsa, "", claim("iat", now.Add(10*time.Minute).Unix()), 401, false},
		"no exp":                   {jwt.SigningMethodRS256, k.rsa, "", without("exp"), 401, true},
		"exp in the past":          {jwt.SigningMethodRS256, k.rsa, "", claim("exp", now.Add(-2*time.Minute).Unix()), 401, false},
		"exp too far":              {jwt.SigningMethodRS256, k.rsa, "", claim("exp", now.Add(2*time.Hour).Unix()), 401, true},
		"no jti":                   {jwt.SigningMethodRS256, k.rsa, "", without("jti"), 401, true},
		"an algorithm not allowed": {jwt.SigningMethodPS256, k.rsa, "", claim("iss", "strict"), 401, false},
		"the allowed algorithm":    {jwt.SigningMethodRS256, k.rsa, "", func(c jwt.MapClaims) { c["iss"], c["sub"] = "strict", "strict" }, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			known := vendorsim.OAuthClient{ID: "c", AuthMethods: []string{vendorsim.PrivateKeyJWT}, Keys: k.public(), Grants: []string{vendorsim.ClientCredentialsGrant}}
			sim.AddOAuthClient(known)
			known.ID, known.Algorithms = "strict", []string{"RS256"}
			sim.AddOAuthClient(known)
			claims := jwt.MapClaims{"iss": "c", "sub": "c", "aud": vendorsim.OAuthTokenURL, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text()}
			test.change(claims)
			ask := form("grant_type", "client_credentials", "client_assertion_type", assertionType, "client_assertion", sign(t, test.method, test.key, test.kid, claims))

			a := post(t, sim, vendorsim.OAuthTokenURL, "", ask)
			assert.Equal(t, test.status, a.status, a.body)
			assert.Equal(t, test.violation, len(sim.Violations()) == 1, sim.Violations())
			if test.status != http.StatusOK {
				assert.Equal(t, "invalid_client", a.error())
				return
			}
			assert.Equal(t, "invalid_client", post(t, sim, vendorsim.OAuthTokenURL, "", ask).error(), "an assertion can be used once")
			assert.Len(t, sim.Violations(), 1)
		})
	}
}

func TestAnAssertionIsSentAsTheStandardRequires(t *testing.T) {
	k := newKeys(t)
	for name, test := range map[string]struct {
		form []string
		code string
	}{
		"with the client's own ID": {[]string{"client_id", "c", "client_assertion_type", assertionType}, ""},
		"with another client's":    {[]string{"client_id", "x", "client_assertion_type", assertionType}, "invalid_client"},
		"without a type":           {nil, "invalid_request"},
		"with another type":        {[]string{"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddOAuthClient(vendorsim.OAuthClient{ID: "c", AuthMethods: []string{vendorsim.PrivateKeyJWT}, Keys: k.public(), Grants: []string{vendorsim.ClientCredentialsGrant}})
			claims := jwt.MapClaims{"iss": "c", "sub": "c", "aud": vendorsim.OAuthTokenURL, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "jti": rand.Text()}
			a := post(t, sim, vendorsim.OAuthTokenURL, "", form(append(test.form, "grant_type", "client_credentials", "client_assertion", sign(t, jwt.SigningMethodRS256, k.rsa, "", claims))...))
			assert.Equal(t, test.code, a.error(), a.body)
			assert.Equal(t, test.code != "", len(sim.Violations()) == 1, sim.Violations())
		})
	}
}

func TestAnAssertionHasTheHeadersThatTheVendorRequires(t *testing.T) {
	k := newKeys(t)
	sim := vendorsim.New()
	sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: "c", AuthMethods: []string{vendorsim.PrivateKeyJWT}, Grants: []string{vendorsim.ClientCredentialsGrant},
		Keys: k.public(), AssertionHeaders: map[string]string{"x5t#S256": "thumbprint"},
	})
	for thumbprint, status := range map[string]int{"thumbprint": 200, "another": 401, "": 401} {
		token := jwt.NewWithClaims(jwt.SigningMethodPS256, jwt.MapClaims{
			"iss": "c", "sub": "c", "aud": vendorsim.OAuthTokenURL, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "jti": rand.Text(),
		})
		if thumbprint != "" {
			token.Header["x5t#S256"] = thumbprint
		}
		assertion, err := token.SignedString(k.rsa)
		require.NoError(t, err)
		a := post(t, sim, vendorsim.OAuthTokenURL, "", form("grant_type", "client_credentials", "client_assertion_type", assertionType, "client_assertion", assertion))
		assert.Equal(t, status, a.status, "%q: %s", thumbprint, a.body)
	}
	assert.Empty(t, sim.Violations(), "an operator may have given another certificate")
}

func TestTheAudienceIsTheCalledEndpointIfTheVendorRequiresIt(t *testing.T) {
	k := newKeys(t)
	sim := vendorsim.New()
	sim.AddOAuthClient(vendorsim.OAuthClient{ID: "c", AuthMethods: []string{vendorsim.PrivateKeyJWT}, Keys: k.public()})
	revoke := func(audience string) int {
		claims := jwt.MapClaims{"iss": "c", "sub": "c", "aud": audience, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "jti": rand.Text()}
		return post(t, sim, vendorsim.OAuthRevocationURL, "", form(
			"token", "t", "client_assertion_type", assertionType, "client_assertion", sign(t, jwt.SigningMethodRS256, k.rsa, "", claims),
		)).status
	}
	assert.Equal(t, 200, revoke(vendorsim.OAuthTokenURL))
	assert.Equal(t, 200, revoke(vendorsim.OAuthRevocationURL))
	sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{OwnAudience: true}})
	assert.Equal(t, 401, revoke(vendorsim.OAuthTokenURL))
	assert.Equal(t, 401, revoke(vendorsim.OAuthIssuer))
	assert.Equal(t, 200, revoke(vendorsim.OAuthRevocationURL))
}

func TestAnAssertionIsExchangedForAToken(t *testing.T) {
	k := newKeys(t)
	const google, salesforce = "robot@project.iam.example", "3MVG9connected"
	for name, test := range map[string]struct {
		claims    jwt.MapClaims
		form      []string
		status    int
		code      string
		violation bool
	}{
		"a service account's":          {jwt.MapClaims{"iss": google, "scope": "read"}, nil, 200, "", false},
		"with itself as sub":           {jwt.MapClaims{"iss": google, "sub": google, "scope": "read"}, nil, 200, "", false},
		"with a fresh jti":             {jwt.MapClaims{"iss": google, "scope": "read", "jti": "j"}, nil, 200, "", false},
		"for another user":             {jwt.MapClaims{"iss": google, "sub": "ceo@example.com", "scope": "read"}, nil, 400, "invalid_grant", false},
		"without a scope":              {jwt.MapClaims{"iss": google}, nil, 400, "invalid_scope", false},
		"with more scope":              {jwt.MapClaims{"iss": google, "scope": "read admin"}, nil, 400, "invalid_scope", false},
		"with the scope elsewhere":     {jwt.MapClaims{"iss": google, "scope": "read"}, []string{"scope", "read"}, 400, "invalid_request", true},
		"another audience":             {jwt.MapClaims{"iss": google, "scope": "read", "aud": "https://x"}, nil, 400, "invalid_grant", false},
		"an unknown issuer":            {jwt.MapClaims{"iss": "x", "scope": "read"}, nil, 400, "invalid_grant", false},
		"a connected app's":            {jwt.MapClaims{"iss": salesforce, "sub": "user@org", "aud": "https://login.example"}, nil, 200, "", false},
		"narrower, in the form":        {jwt.MapClaims{"iss": salesforce, "sub": "user@org", "aud": "https://login.example"}, []string{"scope", "read"}, 200, "", false},
		"narrower, in the assertion":   {jwt.MapClaims{"iss": salesforce, "sub": "user@org", "aud": "https://login.example", "scope": "read"}, nil, 400, "invalid_request", true},
		"not for its user":             {jwt.MapClaims{"iss": salesforce, "aud": "https://login.example"}, nil, 400, "invalid_grant", false},
		"client must authenticate":     {jwt.MapClaims{"iss": "secretive", "scope": "read"}, nil, 401, "invalid_client", false},
		"client authenticates":         {jwt.MapClaims{"iss": "secretive"}, []string{"client_id", "secretive", "client_secret", "s"}, 200, "", false},
		"another client authenticates": {jwt.MapClaims{"iss": google, "scope": "read"}, []string{"client_id", "secretive", "client_secret", "s"}, 400, "invalid_grant", false},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			grants := []string{vendorsim.JWTBearerGrant}
			scopes := []string{"read", "write"}
			sim.AddOAuthClient(vendorsim.OAuthClient{ID: google, Keys: k.public(), Grants: grants, Scopes: scopes, ScopeInAssertion: true})
			sim.AddOAuthClient(vendorsim.OAuthClient{ID: salesforce, Keys: k.public(), Grants: grants, Scopes: scopes, Audience: "https://login.example", Subject: "user@org"})
			sim.AddOAuthClient(vendorsim.OAuthClient{ID: "secretive", Secret: "s", AuthMethods: []string{vendorsim.SecretPost}, Keys: k.public(), Grants: grants, Scopes: scopes})
			claims := jwt.MapClaims{"aud": vendorsim.OAuthTokenURL, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
			for name, value := range test.claims {
				claims[name] = value
			}
			ask := form(append(test.form, "grant_type", vendorsim.JWTBearerGrant, "assertion", sign(t, jwt.SigningMethodRS256, k.rsa, "", claims))...)
			a := post(t, sim, vendorsim.OAuthTokenURL, "", ask)
			assert.Equal(t, test.status, a.status, a.body)
			assert.Equal(t, test.code, a.error(), a.body)
			assert.Equal(t, test.violation, len(sim.Violations()) == 1, sim.Violations())
			if test.status == http.StatusOK {
				assert.True(t, sim.Accepts(a.token()))
				again := post(t, sim, vendorsim.OAuthTokenURL, "", ask)
				assert.Equal(t, test.claims["jti"] == nil, again.status == http.StatusOK, "an assertion with a jti can be used once")
			}
		})
	}
}
