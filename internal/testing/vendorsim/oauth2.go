package vendorsim

import (
	"crypto"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The OAuth 2.0 authorization server that there always is.
const (
	OAuthIssuer        = "https://auth.example.com"
	OAuthTokenURL      = OAuthIssuer + "/oauth2/token"
	OAuthRevocationURL = OAuthIssuer + "/oauth2/revoke"
)

// Client authentications (OpenID Connect Core §9, RFC 7523 §2.2).
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt"
	None          = "none"
)

// Grants, by the value of grant_type.
const (
	RefreshTokenGrant       = "refresh_token"
	ClientCredentialsGrant  = "client_credentials"
	JWTBearerGrant          = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	AccountCredentialsGrant = "account_credentials" // Zoom's server-to-server apps
)

// Where metadata are found (RFC 8414 §3, OpenID Connect Discovery §4).
const (
	OAuthMetadata  = "oauth-authorization-server"
	OpenIDMetadata = "openid-configuration"

	// AppendedMetadata are OAuthMetadata whose path some servers put behind the issuer's own,
	// where RFC 8414 has it before.
	AppendedMetadata = "appended"

	wellKnown = ".well-known"
)

// OAuthConduct is what OAuth 2.0 servers do beside the standards, each as some
// vendor documents it.
type OAuthConduct struct {
	// Stringly writes expires_in as a string, as Microsoft's first token endpoint does.
	Stringly bool

	// Slack has errors told by {"ok": false} and words of Slack's own, with status 200.
	Slack bool

	// BadClient400 answers invalid_client with 400, as Salesforce does.
	BadClient400 bool

	// Gone400 answers the revocation of a token that is not good (any more) with 400
	// and invalid_token, as Google and Salesforce do.
	Gone400 bool

	// SingleToken ends the access token of before when another is issued of the same
	// grant, as GitLab's refresh does.
	SingleToken bool

	// RevokeGrant has the revocation of an access token end the refresh token that it
	// came from, as Google does; RFC 7009 §2.1 allows it.
	RevokeGrant bool

	// PlainBasic takes the client's ID and secret in Basic authentication as they are, as
	// servers do that know RFC 7617 and not RFC 6749 §2.3.1.
	PlainBasic bool

	// OwnAudience takes no client assertions but those that are addressed to the very
	// endpoint called, as Okta documents; else the token URL and the issuer do too.
	OwnAudience bool
}

// An OAuthServer is an OAuth 2.0 authorization server (RFC 6749).
type OAuthServer struct {
	Issuer        string
	TokenURL      string
	RevocationURL string   // none if empty
	Metadata      []string // where they are published, if anywhere

	// Listed are the client authentications that the metadata list; all if empty.
	Listed []string
}

// An OAuthClient is known to one server.
type OAuthClient struct {
	Issuer string // OAuthIssuer if empty
	ID     string
	Secret string

	// AuthMethods are those it may authenticate by. A client has none at all if the
	// assertion that it trades names it, as a service account's at Google.
	AuthMethods []string

	Keys       map[string]crypto.PublicKey // by key ID; the empty one is for assertions that name none
	Algorithms []string                    // of signatures; any that the server knows if empty

	Grants []string
	Scopes []string

	// Params are what each token request must have beyond the standards.
	Params map[string]string

	Lifetime time.Duration // of access tokens; 1 h if zero
	Rotate   bool          // each refresh answers with a new refresh token, and the old one dies

	// Of assertions that are traded (RFC 7523 §2.1): Audience is the aud they must
	// have, the token URL if empty; Subject the sub, which if empty is the client itself
	// or missing; and ScopeInAssertion has the scope stand in them, as at Google, and not
	// in the form.
	Audience         string
	Subject          string
	ScopeInAssertion bool
}

type oauth struct {
	servers map[string]*authServer // by issuer
	tokens  map[string]*oauthGrant // by every token that was ever issued of it
	revoked []string
}

type authServer struct {
	OAuthServer
	clients    map[string]OAuthClient
	assertions map[string]bool   // the IDs of those that have been used
	last       map[string]string // access tokens, by client and scope
}

// oauthGrant is what a client has been given: access tokens and the refresh tokens
// that follow each other.
type oauthGrant struct {
	issuer, client string
	scope          []string
	refreshToken   string   // the good one; empty if there is none (any more)
	accessTokens   []string // all of them
}

func newOAuth() oauth {
	o := oauth{servers: map[string]*authServer{}, tokens: map[string]*oauthGrant{}}
	o.add(OAuthServer{
		Issuer: OAuthIssuer, TokenURL: OAuthTokenURL, RevocationURL: OAuthRevocationURL,
		Metadata: []string{OAuthMetadata, OpenIDMetadata},
	})
	return o
}

func (o *oauth) add(server OAuthServer) {
	o.servers[server.Issuer] = &authServer{
		OAuthServer: server,
		clients:     map[string]OAuthClient{}, assertions: map[string]bool{}, last: map[string]string{},
	}
}

// AddOAuthServer adds an authorization server, or replaces the one with its issuer
// and all its clients.
func (s *Sim) AddOAuthServer(server OAuthServer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oauth.add(server)
}

// AddOAuthClient has a server know a client, in the place of the one with its ID, whose
// tokens it takes over.
func (s *Sim) AddOAuthClient(client OAuthClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if client.Issuer == "" {
		client.Issuer = OAuthIssuer
	}
	s.secret(client.Secret)
	s.oauth.servers[client.Issuer].clients[client.ID] = client
}

// AddOAuthRefreshToken has a server take a refresh token of a client that it knows,
// for a scope.
func (s *Sim) AddOAuthRefreshToken(client OAuthClient, token string, scope ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if client.Issuer == "" {
		client.Issuer = OAuthIssuer
	}
	s.oauth.tokens[s.secret(token)] = &oauthGrant{issuer: client.Issuer, client: client.ID, scope: scope, refreshToken: token}
}

// Revoked are the tokens that were good until a client revoked them, in that order.
func (s *Sim) Revoked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.oauth.revoked)
}

// Live is how many access tokens are good now.
func (s *Sim) Live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := 0
	for _, death := range s.issued {
		if s.now().Before(death) {
			live++
		}
	}
	return live
}

// forget has no server know a client or take a refresh token any more.
func (o *oauth) forget(credential string) {
	for _, server := range o.servers {
		delete(server.clients, credential)
	}
	if grant := o.tokens[credential]; grant != nil && grant.refreshToken == credential {
		grant.refreshToken = ""
	}
}

// oauthEndpoint is what answers at a URL, or nil.
func (s *Sim) oauthEndpoint(host, path string) func(*http.Request) reply {
	called := "https://" + host + path
	for _, server := range s.oauth.servers {
		switch called {
		case server.TokenURL:
			return func(r *http.Request) reply { return s.oauthToken(server, r).reply(s.conduct.OAuth) }
		case server.RevocationURL:
			return func(r *http.Request) reply { return s.oauthRevoke(server, r).reply(s.conduct.OAuth) }
		}
		issuer, err := url.Parse(server.Issuer)
		if err != nil || issuer.Host != host {
			continue
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
