package vendorsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// AuthorizationCodeGrant is the value of grant_type for a code (RFC 6749 §4.1.3).
const AuthorizationCodeGrant = "authorization_code"

// OAuthAuthorizationURL is the authorization endpoint of the default server.
const OAuthAuthorizationURL = OAuthIssuer + "/oauth2/authorize"

// codeLifetime is how long a code is valid: ten minutes at most (RFC 6749 §4.1.2).
const codeLifetime = time.Minute

// A code is what a person's consent yields.
type code struct {
	issuer, client, redirectURI, challenge, nonce, person string
	scope                                                 []string
	expiry                                                time.Time
	isUsed                                                bool
	exchanged                                             time.Time
	grant                                                 *oauthGrant
}

// Consent plays the person who logs in and consents at an authorization URL, and returns the URL to which
// the server sends the browser. person is the email of the ID token.
func (s *Sim) Consent(authorizationURL, person string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	server, query := s.authorization(authorizationURL)
	if server == nil {
		return ""
	}
	return s.consented(query, person, server.Issuer)
}

// consented returns the URL to which the server sends the browser of a person who has consented. issuer is
// the server's issuer as the client knows it.
func (s *Sim) consented(query url.Values, person, issuer string) string {
	text := s.secret("code-" + rand.Text())
	s.oauth.codes[text] = &code{
		issuer: issuer, client: query.Get("client_id"), redirectURI: query.Get("redirect_uri"), challenge: query.Get("code_challenge"), nonce: query.Get("nonce"),
		person: person, scope: strings.Fields(query.Get("scope")), expiry: s.now().Add(codeLifetime),
	}
	return back(query, url.Values{"code": {text}, "iss": {issuer}})
}

// Refuse plays the person who refuses.
func (s *Sim) Refuse(authorizationURL, description string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	server, query := s.authorization(authorizationURL)
	if server == nil {
		return ""
	}
	return back(query, url.Values{"error": {"access_denied"}, "error_description": {description}})
}

// Withdraw plays a person who withdraws all consents at the vendor.
func (s *Sim) Withdraw(person string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.oauth.consents {
		if c.person == person {
			c.grant.refreshToken = ""
		}
	}
}

// Consents returns when each consent was exchanged for tokens, by the caller's clock.
func (s *Sim) Consents() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var times []time.Time
	for _, c := range s.oauth.consents {
		times = append(times, c.exchanged.Add(-s.conduct.Skew))
	}
	return times
}

// ConsentOf returns the number of the consent that an access token is of, in the order of their exchanges; zero
// if it is of none.
func (s *Sim) ConsentOf(token string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if grant := s.oauth.tokens[token]; grant != nil {
		return grant.consent
	}
	return 0
}

// SentCodes returns how often each code was sent, also to a vendor that was unavailable.
func (s *Sim) SentCodes() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.oauth.sent)
}

func back(query, more url.Values) string {
	more.Set("state", query.Get("state"))
	return query.Get("redirect_uri") + "?" + more.Encode()
}

// authorization checks an authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3).
func (s *Sim) authorization(authorizationURL string) (*authServer, url.Values) {
	u, err := url.Parse(authorizationURL)
	if err != nil {
		panic(err)
	}
	query := u.Query()
	var server *authServer
	for _, one := range s.oauth.servers {
		if strings.HasPrefix(authorizationURL, one.Issuer+"/oauth2/authorize?") {
			server = one
		}
	}
	if server == nil {
		s.violations = append(s.violations, "authorization: unknown endpoint")
		return nil, nil
	}
	problem := checkAuthorization(query, server.clients[query.Get("client_id")])
	for name, values := range query {
		if len(values) != 1 {
			problem = name + " is there twice"
		}
	}
	if problem != "" {
		s.violations = append(s.violations, "authorization: "+problem)
		return nil, nil
	}
	return server, query
}

func checkAuthorization(query url.Values, client OAuthClient) string {
	challenge, err := base64.RawURLEncoding.DecodeString(query.Get("code_challenge"))
	scope := strings.Fields(query.Get("scope"))
	switch {
	case client.ID == "":
		return "unknown client_id"
	case query.Get("response_type") != "code":
		return "response_type must be code"
	case client.RedirectURI == "" || query.Get("redirect_uri") != client.RedirectURI:
		return "redirect_uri is not registered"
	case query.Get("code_challenge_method") != "S256" || err != nil || len(challenge) != sha256.Size:
		return "code_challenge must be S256"
	case len(query.Get("state")) < 43:
		return "state is guessable"
	case slices.Contains(scope, "openid") && len(query.Get("nonce")) < 22:
		return "nonce is guessable"
	case checkScope(scope, client.Scopes) != nil:
		return "unknown scope"
	}
	return ""
}

// codeGrant exchanges a code. A second use revokes what the first has yielded (RFC 6749 §4.1.2).
func (s *Sim) codeGrant(a *authServer, client OAuthClient, form map[string]string) *oauthAnswer {
	c := s.oauth.codes[form["code"]]
	verifier := form["code_verifier"]
	digest := sha256.Sum256([]byte(verifier))
	switch {
	case c == nil || c.client != client.ID || !s.now().Before(c.expiry):
		return oauthRefusal(invalidGrant, "unknown or expired code")
	case c.isUsed:
		if c.grant != nil {
			c.grant.refreshToken = ""
		}
		return oauthViolation(invalidGrant, "the code is sent twice")
	case c.redirectURI != form["redirect_uri"]:
		return oauthViolation(invalidGrant, "redirect_uri differs from that of the authorization")
	case len(verifier) < 43 || base64.RawURLEncoding.EncodeToString(digest[:]) != c.challenge:
		return oauthViolation(invalidGrant, "code_verifier does not fit code_challenge")
	}
	c.isUsed = true
	return s.consentGrant(a, client, c)
}

// consentGrant issues what a person has consented to.
func (s *Sim) consentGrant(a *authServer, client OAuthClient, c *code) *oauthAnswer {
	scope := c.scope
	if len(scope) == 0 {
		scope = client.Scopes
	}
	c.grant = s.newGrant(a, client, scope)
	c.exchanged = s.now()
	s.oauth.consents = append(s.oauth.consents, c)
	c.grant.consent = len(s.oauth.consents)
	if client.RefreshLifetime > 0 {
		c.grant.refreshExpiry = c.exchanged.Add(client.RefreshLifetime)
	}
	answer := s.grantToken(client, c.grant, scope)
	if !client.NoRefreshToken {
		c.grant.refreshToken = s.newRefreshToken()
		s.oauth.tokens[c.grant.refreshToken] = c.grant
		answer.body["refresh_token"] = c.grant.refreshToken
	}
	if slices.Contains(scope, "openid") {
		answer.body["id_token"] = s.idToken(client, c)
	}
	return answer
}

// idTokenKey signs ID tokens.
var idTokenKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func (s *Sim) idToken(client OAuthClient, c *code) string {
	claims := jwt.MapClaims{
		"iss": c.issuer, "aud": client.ID, "sub": "sub-of-" + c.person, "nonce": c.nonce, "email": c.person,
		"iat": s.now().Unix(), "exp": s.now().Add(time.Hour).Unix(),
	}
	for name, value := range s.conduct.OAuth.IDToken {
		claims[name] = value
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = "id"
	key := idTokenKey()
	if s.conduct.OAuth.ForgedIDToken {
		key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	signed, err := token.SignedString(key)
	if err != nil {
		panic(err)
	}
	return signed
}

// idTokenKeys returns the keys that verify ID tokens.
func idTokenKeys(r *http.Request) reply {
	if r.Method != http.MethodGet {
		return violation(http.StatusMethodNotAllowed, "must be a GET")
	}
	return ok(map[string]any{"keys": []any{
		// Others need not know these kinds of keys, and have to ignore them (RFC 7517 §5). The values are those of the
		// base points.
		map[string]string{"kty": "OKP", "crv": "X25519", "kid": "other", "x": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
		map[string]string{"kty": "EC", "crv": "secp256k1", "kid": "another", "use": "sig", "x": "eb5mfvncu6xVoGKVzocLBwKb_NstzijZWfKBWxb4F5g", "y": "SDradyajxGVdpPv8DhEIqP0XtEimhVQZnEfQj_sQ1Lg"},
		map[string]string{"kty": "new", "kid": "a third"},
		jose.JSONWebKey{Key: idTokenKey().Public(), KeyID: "id", Use: "sig", Algorithm: "ES256"},
	}})
}
