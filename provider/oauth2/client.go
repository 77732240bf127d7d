package oauth2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Values of the request parameter grant_type.
const (
	RefreshToken       = "refresh_token"                               // RFC 6749 §6
	ClientCredentials  = "client_credentials"                          // RFC 6749 §4.4
	JWTBearer          = "urn:ietf:params:oauth:grant-type:jwt-bearer" // RFC 7523 §2.1
	AccountCredentials = "account_credentials"                         // specific to Zoom
)

// A Client is a client of an authorization server, with the credentials to request access
// tokens.
type Client struct {
	HTTP   *provider.Client
	Server *Server

	// GrantType is one of the constants above.
	GrantType string

	// ID and Secret are the client's. AuthStyle is how it authenticates; if it is "",
	// Exchange tries client_secret_basic and client_secret_post.
	ID        string
	Secret    string
	AuthStyle string

	// Signer signs assertions: those that authenticate the client (PrivateKeyJWT), or
	// those that are the grant (JWTBearer).
	Signer    *provider.Signer
	Assertion Assertion

	// Refresh is the refresh token that the operator stored.
	Refresh string

	// Scopes are the scopes to request; none requests the vendor's default.
	Scopes []string

	// known are the scopes of the credential that this one narrows.
	known []string

	// Params are further parameters of the token request.
	Params map[string]string

	// Lifetime is the vendor's documented lifetime of a token if nothing states it, and
	// DefaultTTL that of the operator or of the preset; zero if unknown.
	Lifetime   time.Duration
	DefaultTTL time.Duration

	// IdleExpiry is how long the refresh token stays valid without use; zero if it does
	// not expire from disuse, or if this is unknown.
	IdleExpiry time.Duration

	// InvalidatesPrevious reports whether an exchange invalidates the previous token.
	InvalidatesPrevious bool
}

// MaxIdle returns how long the refresh token stays valid without use.
func (c *Client) MaxIdle() time.Duration { return c.IdleExpiry }

// GrantName returns the grant as a value of the field grant_type.
func (c *Client) GrantName() string {
	for name, sent := range grantTypes {
		if sent == c.GrantType {
			return name
		}
	}
	return ""
}

// Scope returns the requested scopes.
func (c *Client) Scope() []string { return c.Scopes }

// Destinations returns the endpoints, or the issuer whose metadata has them.
func (c *Client) Destinations() provider.Destinations {
	d := provider.Destinations{Issuer: c.Server.Issuer}
	for _, url := range []string{c.Server.Token, c.Server.Revocation} {
		if url != "" {
			d.URLs = append(d.URLs, url)
		}
	}
	switch {
	case c.Signer == nil:
	case c.Assertion.Audience != "":
		d.Audiences = []string{c.Assertion.Audience}
	default: // each endpoint is its own audience
		d.Audiences = slices.Clone(d.URLs)
		if d.Issuer != "" {
			d.Audiences = append(d.Audiences, "")
		}
	}
	return d
}

// Narrow returns a client that requests only some of the scopes. A refresh request can state
// its scope too (RFC 6749 §6).
func (c *Client) Narrow(scope []string) (provider.Credential, error) {
	if c.InvalidatesPrevious {
		return nil, provider.Errorf(provider.Invalid, "scope: an exchange invalidates the previous token, so a credential cannot have one per scope; omit scope")
	}
	if err := provider.CheckNarrower("scope", scope, c.Scopes); err != nil {
		return nil, err
	}
	narrow := *c
	narrow.Scopes, narrow.known = scope, slices.Concat(c.known, c.Scopes)
	return &narrow, nil
}

// Exchange requests an access token from the token endpoint. It repeats a refused request
// if the vendor may have refused the dates of an assertion, and with another style of
// client authentication if AuthStyle is empty.
func (c *Client) Exchange(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	endpoints, err := c.endpoints(ctx, last)
	if err != nil {
		return nil, err
	}
	first, second := c.authStyles(last, endpoints.tokenMethods)
	answer, err := c.exchangeWith(ctx, endpoints.Token, last, first)
	switch {
	case second == "" || !isAboutStyle(err):
	case !c.mayRepeat(err):
		err = withStyleHint(err, second)
	default:
		first = second
		if again, againErr := c.exchangeWith(ctx, endpoints.Token, last, second); againErr == nil || !isAboutStyle(againErr) {
			answer, err = again, againErr
		}
	}
	if err == nil && c.AuthStyle == "" && first != last.AuthStyle {
		c.remember(answer, last, first)
	}
	return answer, provider.CheckField(err, c.Server.tokenField())
}

// endpoints returns the endpoints of the server. Errors may quote its metadata, with the
// secrets masked.
func (c *Client) endpoints(ctx context.Context, last provider.Grant) (Endpoints, error) {
	endpoints, err := c.Server.endpoints(ctx, c.HTTP)
	return endpoints, provider.Masked(ctx, err, c.Secret, c.Refresh, last.RefreshToken)
}

// remember stores the style that worked in the grant for the next exchange.
func (c *Client) remember(a *provider.Answer, last provider.Grant, style string) {
	if a.Grant == nil {
		a.Grant = &last
	}
	next := *a.Grant
	next.AuthStyle = style
	a.Grant = &next
}

// exchangeWith sends a request whose assertions are dated by the vendor's clock. It repeats a
// refused request if the response shows that the dates may be the reason.
func (c *Client) exchangeWith(ctx context.Context, tokenURL string, last provider.Grant, style string) (*provider.Answer, error) {
	ahead := c.vendorAhead(tokenURL)
	answer, err := c.requestToken(ctx, tokenURL, last, style)
	if isRejected(err) && c.mayRepeat(err) && c.isMisdated(tokenURL, ahead) {
		answer, err = c.requestToken(ctx, tokenURL, last, style)
	}
	return answer, c.withSkew(err)
}

func (c *Client) requestToken(ctx context.Context, tokenURL string, last provider.Grant, style string) (*provider.Answer, error) {
	refresh := c.Refresh
	if last.RefreshToken != "" {
		refresh = last.RefreshToken
	}
	params, err := c.params(tokenURL, refresh)
	if err != nil {
		return nil, err
	}
	auth, err := c.authenticate(style, tokenURL)
	if err != nil {
		return nil, err
	}
	config := clientcredentials.Config{
		ClientID:       auth.id,
		ClientSecret:   auth.secret,
		TokenURL:       tokenURL,
		AuthStyle:      oauth2.AuthStyleInParams,
		EndpointParams: merge(params, auth.params),
	}
	exchange := &exchange{client: c.HTTP, authorization: auth.header, secrets: c.secrets(auth, refresh, config.EndpointParams)}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: exchange}))
	if err == nil {
		return c.answer(token, exchange, refresh, last), nil
	}
	failure := exchange.failure(err)
	if granted := c.granted(exchange.refreshToken, refresh, last); granted != nil {
		return &provider.Answer{Clock: exchange.clock, Grant: granted, Unusable: failure}, nil
	}
	return nil, failure
}

// params returns the request parameters of the grant.
func (c *Client) params(tokenURL, refresh string) (url.Values, error) {
	params := url.Values{"grant_type": {c.GrantType}}
	for name, value := range c.Params {
		params.Set(name, value)
	}
	if len(c.Scopes) > 0 && !c.Assertion.HoldsScope {
		params.Set("scope", strings.Join(c.Scopes, " "))
	}
	switch c.GrantType {
	case RefreshToken:
		params.Set("refresh_token", refresh)
	case JWTBearer:
		assertion, err := c.sign(c.bearerClaims(tokenURL))
		if err != nil {
			return nil, err
		}
		params.Set("assertion", assertion)
	}
	return params, nil
}

// secrets returns the secrets in a request, which no error may quote.
func (c *Client) secrets(auth authentication, refresh string, params url.Values) []string {
	return []string{c.Secret, refresh, params.Get("assertion"), params.Get("client_assertion"), strings.TrimPrefix(auth.header, "Basic ")}
}

func (c *Client) answer(token *oauth2.Token, e *exchange, refresh string, last provider.Grant) *provider.Answer {
	// RFC 6749 §5.1: without a scope in the response, the requested scope was granted.
	scope := provider.ReadScope(e.scope, slices.Concat(c.known, c.Scopes))
	if len(scope) == 0 {
		scope = c.Scopes
	}
	return &provider.Answer{
		AccessToken:         token.AccessToken,
		RefreshToken:        token.RefreshToken,
		TokenType:           token.Type(),
		Scope:               scope,
		ExpiresIn:           provider.Lifetime(json.RawMessage(e.expiresIn), time.Second),
		Lifetime:            c.Lifetime,
		DefaultTTL:          c.DefaultTTL,
		InvalidatesPrevious: c.InvalidatesPrevious,
		Clock:               e.clock,
		Grant:               c.granted(token.RefreshToken, refresh, last),
	}
}

// granted returns the grant with a rotated refresh token; nil if the token is the same.
func (c *Client) granted(refreshToken, refresh string, last provider.Grant) *provider.Grant {
	next := provider.Replacement(refreshToken, refresh)
	if c.GrantType != RefreshToken || next == "" {
		return nil
	}
	return &provider.Grant{RefreshToken: next, AuthStyle: last.AuthStyle}
}

// exchange is the transport of one request of golang.org/x/oauth2. It sends the request with
// [provider.Client], for its limits, clocks and errors, and records what x/oauth2 drops.
type exchange struct {
	client        *provider.Client
	authorization string // header; "" for none
	secrets       []string

	clock        provider.Clock
	expiresIn    provider.Number
	scope        provider.Texts
	refreshToken string
}

func (e *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Accept", "application/json")
	setNonEmpty(r.Header, "Authorization", e.authorization)
	reply, err := e.client.Do(r, e.secrets...)
	if err != nil {
		var failure *provider.Error
		if errors.As(err, &failure) {
			e.clock = failure.Clock
		}
		return nil, err
	}
	e.clock = reply.Clock
	var body map[string]json.RawMessage
	if err := reply.Decode(&body); err != nil {
		return nil, err
	}
	accessToken, refreshToken := text(body["access_token"]), text(body["refresh_token"])
	if accessToken == "" && reply.HasError() {
		return nil, reply.Refusal()
	}
	e.refreshToken = refreshToken // counts even if the rest of the response is invalid
	if accessToken == "" || reply.HasError() {
		return nil, reply.NoToken()
	}
	_ = e.expiresIn.UnmarshalJSON(body["expires_in"])
	_ = e.scope.UnmarshalJSON(body["scope"])
	// Give x/oauth2 only what it needs: it fails on a member of an unexpected type, and
	// truncates a body at 1 MiB, which HTML escapes would count towards.
	var raw bytes.Buffer
	encoder := json.NewEncoder(&raw)
	encoder.SetEscapeHTML(false)
	err = encoder.Encode(map[string]string{
		"access_token": accessToken, "refresh_token": refreshToken, "token_type": text(body["token_type"]),
	})
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       readCloser(raw.Bytes()),
		Request:    r,
	}, nil
}

// text returns a JSON string; "" if raw is not one.
func text(raw json.RawMessage) string {
	var t provider.Text
	_ = t.UnmarshalJSON(raw)
	return string(t)
}

// failure converts an error of x/oauth2, whose text may quote the response.
func (e *exchange) failure(err error) *provider.Error {
	var failure *provider.Error
	if errors.As(err, &failure) {
		return failure
	}
	return provider.Errorf(provider.InvalidResponse, "the vendor's response contains no access token")
}
