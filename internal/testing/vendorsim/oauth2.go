package vendorsim

import (
	"crypto"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The default OAuth 2.0 authorization server of a Sim.
const (
	OAuthIssuer        = "https://auth.example.com"
	OAuthTokenURL      = OAuthIssuer + "/oauth2/token"
	OAuthRevocationURL = OAuthIssuer + "/oauth2/revoke"
)

// Client authentication methods (OpenID Connect Core §9, RFC 7523 §2.2).
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt"
	None          = "none"
)

// Values of grant_type.
const (
	RefreshTokenGrant       = "refresh_token"
	ClientCredentialsGrant  = "client_credentials"
	JWTBearerGrant          = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	AccountCredentialsGrant = "account_credentials" // Zoom's server-to-server apps
)

// Locations of the metadata (RFC 8414 §3, OpenID Connect Discovery §4).
const (
	OAuthMetadata  = "oauth-authorization-server"
	OpenIDMetadata = "openid-configuration"

	// AppendedMetadata is OAuthMetadata at a path after that of the issuer, as some servers
	// have it. RFC 8414 puts it before the issuer's path.
	AppendedMetadata = "appended"

	wellKnown = ".well-known"
)

// OAuthConduct is the behavior of OAuth 2.0 servers where it differs from the standards. Some
// vendor documents each difference.
type OAuthConduct struct {
	// Stringly returns expires_in as a string, as Microsoft's v1.0 token endpoint does.
	Stringly bool

	// Slack returns errors with status 200, {"ok": false} and Slack's own error codes.
	Slack bool

	// BadClient400 returns invalid_client with status 400, as Salesforce does.
	BadClient400 bool

	// Gone400 returns status 400 and invalid_token for the revocation of an invalid or expired
	// token, as Google and Salesforce do.
	Gone400 bool

	// SingleToken revokes the previous access token when a new one of the same grant is issued,
	// as GitLab's refresh does.
	SingleToken bool

	// RevokeGrant revokes the refresh token of an access token together with it, as Google does.
	// RFC 7009 §2.1 allows it.
	RevokeGrant bool

	// PlainBasic does not decode the client's ID and secret in Basic authentication, as servers
	// do that implement RFC 7617 but not RFC 6749 §2.3.1.
	PlainBasic bool

	// IDToken are claims of ID tokens in place of the right ones. ForgedIDToken signs them with another key.
	IDToken       map[string]any
	ForgedIDToken bool

	// SlowDown asks for a longer interval once for each device code.
	SlowDown bool

	// MoreScope are scopes that a token for a caller has in addition to those that were asked for.
	MoreScope []string

	// OwnAudience requires the URL of the called endpoint as the aud of a client assertion, as
	// Okta documents. Otherwise, the token URL and the issuer are accepted too.
	OwnAudience bool
}

// An OAuthServer is an OAuth 2.0 authorization server (RFC 6749).
type OAuthServer struct {
	Issuer        string
	TokenURL      string
	RevocationURL string   // if empty, there is no revocation endpoint
	Metadata      []string // locations of the metadata

	// Listed are the client authentication methods in the metadata; all if empty.
	Listed []string

	// Descriptions are the vendor's error descriptions, by error code. The simulator's own is
	// used for other codes, and for requests that no vendor documents.
	Descriptions map[string]string

	// Unstated omits expires_in, as Salesforce does.
	Unstated bool
}

// An OAuthClient is a client of one server.
type OAuthClient struct {
	Issuer string // OAuthIssuer if empty
	ID     string
	Secret string

	// NextSecret is a second valid secret, for vendors where secrets overlap in a rotation.
	NextSecret string

	// AuthMethods are the allowed client authentication methods. There are none for a client
	// that is identified by the assertion of its grant, such as a Google service account.
	AuthMethods []string

	Keys       map[string]crypto.PublicKey // by key ID; "" for assertions without a kid
	Algorithms []string                    // allowed signature algorithms; all if empty

	// Nodes fetch the keys from the client's jwks_uri, in place of Keys. All of them must know a key.
	Nodes []*KeyCache

	// AssertionHeaders are headers that each assertion must have, such as the thumbprint of the
	// client's certificate, by which Microsoft Entra ID finds the key.
	AssertionHeaders map[string]string

	Grants []string
	Scopes []string

	// Targets are the audiences and resources for which the client can exchange callers' tokens.
	Targets []string

	// OneScope requires exactly one scope in each request, as Microsoft Entra ID does.
	OneScope bool

	// Params are the non-standard parameters that each token request must have.
	Params map[string]string

	// RedirectURI is where consents return to; none if it is empty. NoRefreshToken omits the refresh token,
	// as vendors do that are not asked for one.
	RedirectURI    string
	NoRefreshToken bool

	// Audiences and Resources are what tokens can be requested for (audience, and resource of RFC 8707). A
	// JWT has what was requested, or the first audience, as its aud. IgnoreAudience issues all tokens for
	// the first audience, as vendors do that do not know the parameter.
	Audiences, Resources []string
	IgnoreAudience       bool

	Lifetime time.Duration // of access tokens; zero means 1 hour
	Rotate   bool          // each refresh rotates the refresh token

	// Period, unless zero, makes all access tokens expire together, at the next multiple of it, as Kensho's
	// do at the full hour. Lifetime then has no effect.
	Period time.Duration

	// RefreshLifetime is how long after a consent its refresh tokens are valid, whatever is done; zero means
	// forever.
	RefreshLifetime time.Duration

	// The following fields are for the assertions of the JWT bearer grant (RFC 7523 §2.1).
	// Audience is the required aud; if empty, it is the token URL. Subject is the required
	// sub; if empty, sub must be the client or missing. ScopeInAssertion requires the scope in
	// the assertion, as Google does, and not in the form.
	// Subjects are the subs that an assertion can have instead of Subject: the people for whom the client
	// may act.
	Audience         string
	Subject          string
	Subjects         []string
	ScopeInAssertion bool

	// hasSecret and keyOf replace the secrets and keys of a client that changes them by an API.
	hasSecret func(string) bool
	keyOf     func(*jwt.Token) (any, error)
}

type oauth struct {
	servers map[string]*authServer // by issuer
	tokens  map[string]*oauthGrant // by each token that was issued for the grant
	codes   map[string]*code
	devices map[string]*deviceCode
	revoked []string

	delegated map[string]Delegated // by access token
	ended     map[string]bool      // the people whose tokens are refused

	consents   []*code        // those that were exchanged, in order
	sent       map[string]int // how often each code was sent
	earlyPolls int
}

type authServer struct {
	OAuthServer
	clients    map[string]OAuthClient
	assertions map[string]bool   // IDs (jti) of used assertions
	last       map[string]string // last access token by client and scope

	// audiences are the only accepted ones of client assertions; if empty, those of RFC 7523.
	audiences []string
}

// An oauthGrant is a grant to a client: its access tokens, and its current refresh token.
type oauthGrant struct {
	issuer, client string
	scope          []string
	refreshToken   string    // the valid one; empty if there is none
	refreshExpiry  time.Time // of all refresh tokens; zero for never
	accessTokens   []string  // all access tokens so far
	consent        int       // the number of the consent; zero if it is of none
}

func newOAuth() oauth {
	o := oauth{servers: map[string]*authServer{}, tokens: map[string]*oauthGrant{}, codes: map[string]*code{}, devices: map[string]*deviceCode{}, sent: map[string]int{}, delegated: map[string]Delegated{}, ended: map[string]bool{}}
	o.add(OAuthServer{
		Issuer: OAuthIssuer, TokenURL: OAuthTokenURL, RevocationURL: OAuthRevocationURL,
		Metadata: []string{OAuthMetadata, OpenIDMetadata},
	})
	return o
}

func (o *oauth) add(server OAuthServer) {
	o.servers[server.Issuer] = newAuthServer(server)
}

func newAuthServer(server OAuthServer) *authServer {
	return &authServer{OAuthServer: server, clients: map[string]OAuthClient{}, assertions: map[string]bool{}, last: map[string]string{}}
}

// AddOAuthServer adds an authorization server. It replaces a server with the same issuer and
// removes that server's clients.
func (s *Sim) AddOAuthServer(server OAuthServer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oauth.add(server)
}

// AddOAuthClient adds a client to a server. It replaces a client with the same ID and keeps that
// client's tokens.
func (s *Sim) AddOAuthClient(client OAuthClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if client.Issuer == "" {
		client.Issuer = OAuthIssuer
	}
	s.secret(client.Secret)
	s.secret(client.NextSecret)
	s.oauth.servers[client.Issuer].clients[client.ID] = client
}

// AddOAuthRefreshToken adds a refresh token with a scope to a client that was added before.
func (s *Sim) AddOAuthRefreshToken(client OAuthClient, token string, scope ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if client.Issuer == "" {
		client.Issuer = OAuthIssuer
	}
	s.oauth.tokens[s.secret(token)] = &oauthGrant{issuer: client.Issuer, client: client.ID, scope: scope, refreshToken: token}
}

// Revoked returns the tokens that were valid until a client revoked them, in the order of their
// revocation.
func (s *Sim) Revoked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.oauth.revoked)
}

// ValidTokens returns the number of valid access tokens.
func (s *Sim) ValidTokens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	valid := 0
	for _, expiry := range s.issued {
		if s.now().Before(expiry) {
			valid++
		}
	}
	return valid
}

// forget removes a client, or revokes a refresh token, at all servers.
func (o *oauth) forget(credential string) {
	for _, server := range o.servers {
		delete(server.clients, credential)
	}
	if grant := o.tokens[credential]; grant != nil && grant.refreshToken == credential {
		grant.refreshToken = ""
	}
}

// oauthEndpoint returns the handler of a URL, or nil if there is none.
func (s *Sim) oauthEndpoint(host, path string) func(*http.Request) reply {
	called := "https://" + host + path
	for _, server := range s.oauth.servers {
		switch called {
		case server.TokenURL:
			return func(r *http.Request) reply {
				return server.adapt(s.oauthToken(server, r)).reply(s.conduct.OAuth)
			}
		case server.RevocationURL:
			return func(r *http.Request) reply { return s.oauthRevoke(server, r).reply(s.conduct.OAuth) }
		}
		issuer, err := url.Parse(server.Issuer)
		if err != nil || issuer.Host != host {
			continue
		}
		switch path {
		case "/oauth2/keys":
			return idTokenKeys
		case "/oauth2/device_authorization":
			return func(r *http.Request) reply { return s.oauthDevice(server, r).reply(s.conduct.OAuth) }
		case "/oauth2/authorize":
			return func(r *http.Request) reply { return s.oauthAuthorize(server, r) }
		}
		tenant := strings.TrimSuffix(issuer.Path, "/")
		switch path {
		case "/" + wellKnown + "/" + OAuthMetadata + tenant:
			return func(r *http.Request) reply { return server.metadata(r, OAuthMetadata) }
		case tenant + "/" + wellKnown + "/" + OpenIDMetadata:
			return func(r *http.Request) reply { return server.metadata(r, OpenIDMetadata) }
		case tenant + "/" + wellKnown + "/" + OAuthMetadata:
			return func(r *http.Request) reply { return server.metadata(r, AppendedMetadata) }
		}
	}
	return nil
}
