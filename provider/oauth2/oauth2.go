// Package oauth2 exchanges credentials of any vendor that supports OAuth 2.0: client secrets,
// private keys and refresh tokens.
package oauth2

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// Provider implements [provider.Provider] for OAuth 2.0.
type Provider struct{}

// config has the fields of an OAuth 2.0 credential.
type config struct {
	TokenURL          string            `json:"token_url"`
	Issuer            string            `json:"issuer"`
	RevocationURL     string            `json:"revocation_url"`
	GrantType         string            `json:"grant_type"`
	ClientID          string            `json:"client_id"`
	ClientSecret      string            `json:"client_secret"`
	PrivateKey        string            `json:"private_key"`
	Certificate       string            `json:"certificate"`
	KeyID             string            `json:"key_id"`
	SigningAlgorithm  string            `json:"signing_algorithm"`
	AuthStyle         string            `json:"auth_style"`
	RefreshToken      string            `json:"refresh_token"`
	Scope             []string          `json:"scope"`
	TokenParams       map[string]string `json:"token_params"`
	Audience          []string          `json:"audience"`
	Resource          []string          `json:"resource"`
	AssertionAudience string            `json:"assertion_audience"`
	AssertionSubject  string            `json:"assertion_subject"`
	ScopeInAssertion  bool              `json:"scope_in_assertion"`
	IdentityAudience  string            `json:"identity_token_audience"`
	IdentityTTL       *provider.Seconds `json:"identity_token_ttl"`
	IdleExpiry        provider.Seconds  `json:"idle_expiry"`
	SingleToken       bool              `json:"single_token"`
	TransientErrors   []string          `json:"transient_errors"`

	// A person consents there, and the browser returns to RedirectURI.
	AuthorizationURL    string            `json:"authorization_url"`
	AuthorizationParams map[string]string `json:"authorization_params"`
	RedirectURI         string            `json:"redirect_uri"`
	DeviceURL           string            `json:"device_authorization_url"`
}

// grantTypes maps the values of the field grant_type to those of the request parameter.
var grantTypes = map[string]string{
	"refresh_token":       exchange.RefreshToken,
	"client_credentials":  exchange.ClientCredentials,
	"jwt_bearer":          exchange.JWTBearer,
	"account_credentials": exchange.AccountCredentials,
	"token_exchange":      exchange.TokenExchange,
}

// Name returns "oauth2".
func (Provider) Name() string { return "oauth2" }

// Summary describes the vendors in one line.
func (Provider) Summary() string { return "any server that speaks OAuth 2.0" }

// About returns what the server must speak.
func (Provider) About() provider.About {
	return provider.About{
		Notes:      "Register a client at the server. If the server publishes metadata, give its issuer instead of token_url and revocation_url",
		Docs:       []string{"https://www.rfc-editor.org/rfc/rfc6749", "https://www.rfc-editor.org/rfc/rfc7523", "https://www.rfc-editor.org/rfc/rfc8414", "https://www.rfc-editor.org/rfc/rfc8693"},
		Evidence:   "specification",
		GrantTypes: []string{"refresh_token", "client_credentials", "jwt_bearer", "account_credentials", "token_exchange"},
	}
}

// Example returns the fields of a typical credential.
func (Provider) Example() string {
	return "token_url=https://auth.example.com/oauth2/token client_id=billing client_secret=..."
}

// Open validates the fields.
func (Provider) Open(s provider.Settings) (provider.Credential, error) {
	var c config
	if err := provider.DecodeFields(s.Fields, &c); err != nil {
		return nil, err
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	client := exchange.Client{
		HTTP:                s.Client.WithErrors(c.TransientErrors, ""),
		Server:              &exchange.Server{Issuer: c.Issuer, Endpoints: exchange.Endpoints{Token: c.TokenURL, Revocation: c.RevocationURL}},
		GrantType:           c.GrantType,
		ID:                  c.ClientID,
		Secret:              c.ClientSecret,
		AuthStyle:           c.sentStyle(),
		Values:              c.values(),
		ClientAssertion:     c.clientAssertion(),
		Assertion:           c.grantAssertion(),
		Refresh:             c.RefreshToken,
		Scopes:              c.Scope,
		Request:             c.request(),
		Reading:             exchange.OAuth,
		InvalidatesPrevious: c.SingleToken,
	}
	if c.AuthStyle == exchange.IdentityToken {
		client.Identity = exchange.Identity{Audience: c.IdentityAudience, TTL: c.identityTTL(), Request: s.IdentityToken}
	}
	if c.RefreshToken != "" {
		client.IdleExpiry = c.IdleExpiry.Duration()
	}
	if c.canConsent() {
		client.Authorization = &exchange.Authorization{
			URL: c.AuthorizationURL, Query: literals(c.AuthorizationParams), Scopes: c.Scope, Code: exchange.CodeRequest(client.Request),
			DeviceURL: c.DeviceURL, Device: exchange.DeviceRequest(client.Request), OpenID: c.Issuer,
		}
	}
	if c.AuthStyle != exchange.None { // otherwise anybody could exchange the caller's token
		client.Delegated = exchange.RFC8693(literals(c.TokenParams), c.GrantType == "token_exchange")
	}
	if c.AuthStyle == exchange.TLSClientAuth {
		mutual, err := client.HTTP.WithCertificate(c.Certificate, c.PrivateKey)
		if err != nil {
			return nil, err
		}
		client.HTTP, client.Server.IsMutual = mutual, true
	}
	if c.signs() {
		signer, err := provider.NewSigner(c.PrivateKey, c.SigningAlgorithm, cmp.Or(c.KeyID, s.Thumbprint))
		if err != nil {
			return nil, err
		}
		client.Signer = signer
	}
	return &client, nil
}

// values returns the values of placeholders.
func (c *config) values() exchange.Values {
	values := exchange.Values{"assertion_subject": c.AssertionSubject, "assertion_audience": c.AssertionAudience}
	for name, list := range map[string][]string{"audience": c.Audience, "resource": c.Resource} {
		if len(list) > 0 {
			values[name] = exchange.Repeated(list)
		}
	}
	return values
}

// sentStyle returns how the client authenticates. A client without a secret names itself in the form,
// unless the assertion names it.
func (c *config) sentStyle() string {
	if c.AuthStyle == exchange.None && c.GrantType != "jwt_bearer" {
		return exchange.Public
	}
	return c.AuthStyle
}

// identityTTL returns how long an identity token is valid.
func (c *config) identityTTL() time.Duration {
	if c.IdentityTTL == nil {
		return provider.DefaultIdentityTTL
	}
	return c.IdentityTTL.Duration()
}

// signs reports whether the client signs assertions.
func (c *config) signs() bool {
	return c.AuthStyle == exchange.PrivateKeyJWT || c.GrantType == "jwt_bearer"
}

// canConsent reports whether a person's consent can yield the refresh token.
func (c *config) canConsent() bool {
	return c.GrantType == "refresh_token" && c.AuthorizationURL+c.DeviceURL+c.Issuer != ""
}

func literals(texts map[string]string) map[string]exchange.Template {
	templates := map[string]exchange.Template{}
	for name, text := range texts {
		templates[name] = exchange.Literal(text)
	}
	return templates
}

// request returns the token request.
func (c *config) request() exchange.Request {
	form := literals(c.TokenParams)
	form["grant_type"] = exchange.Literal(grantTypes[c.GrantType])
	for _, name := range []string{"audience", "resource"} {
		if _, isGiven := c.TokenParams[name]; !isGiven {
			form[name] = exchange.Placeholder(name)
		}
	}
	if !c.ScopeInAssertion {
		form["scope"] = exchange.Placeholder("scope")
	}
	switch c.GrantType {
	case "refresh_token":
		form["refresh_token"] = exchange.Placeholder("refresh_token")
	case "jwt_bearer":
		form["assertion"] = exchange.Placeholder("assertion")
	}
	return exchange.Request{Form: form}
}

// clientAssertion returns the JWT that authenticates the client (RFC 7523 §2.2).
func (c *config) clientAssertion() exchange.Assertion {
	claims := map[string]any{"iss": exchange.Placeholder("client_id"), "sub": exchange.Placeholder("client_id"), "aud": c.audience()}
	return exchange.Assertion{Claims: exchange.NewClaims(claims)}
}

// grantAssertion returns the JWT of the grant jwt_bearer (RFC 7523 §2.1).
func (c *config) grantAssertion() exchange.Assertion {
	claims := map[string]any{"iss": exchange.Placeholder("client_id"), "sub": exchange.Placeholder("assertion_subject"), "aud": c.audience()}
	if c.ScopeInAssertion {
		claims["scope"] = exchange.Placeholder("scope|joined")
	}
	return exchange.Assertion{Claims: exchange.NewClaims(claims)}
}

// audience returns the aud of assertions: that of the operator, or the URL of the request.
func (c *config) audience() exchange.Template {
	if c.AssertionAudience != "" {
		return exchange.Placeholder("assertion_audience")
	}
	return exchange.Placeholder("token_url")
}

// complete sets the defaults of grant_type and auth_style. It returns an error of kind
// Invalid if one of them has an unknown value.
func (c *config) complete() error {
	if c.GrantType == "" {
		c.GrantType = "client_credentials"
		if c.RefreshToken != "" || c.AuthorizationURL+c.DeviceURL != "" {
			c.GrantType = "refresh_token"
		}
	}
	if grantTypes[c.GrantType] == "" {
		return provider.Errorf(provider.Invalid, "grant_type: unknown grant type %s (allowed: %s)", provider.Quote(c.GrantType), strings.Join(slices.Sorted(maps.Keys(grantTypes)), ", "))
	}
	if c.AuthStyle != "" && !slices.Contains(exchange.AuthStyles, c.AuthStyle) {
		return provider.Errorf(provider.Invalid, "auth_style: unknown style %s (allowed: %s)", provider.Quote(c.AuthStyle), strings.Join(exchange.AuthStyles, ", "))
	}
	if c.AuthStyle == "" {
		switch {
		case c.Certificate != "":
			c.AuthStyle = exchange.TLSClientAuth
		case c.PrivateKey != "" && c.GrantType != "jwt_bearer":
			c.AuthStyle = exchange.PrivateKeyJWT
		case c.IdentityAudience != "" && c.ClientSecret == "":
			c.AuthStyle = exchange.IdentityToken
		case c.ClientSecret == "":
			c.AuthStyle = exchange.None
		}
	}
	return nil
}
