package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

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

	// Vendor is the name of the vendor; "" if it has none.
	Vendor string

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

// VendorName returns the name of the vendor; "" if it has none.
func (c *Client) VendorName() string { return c.Vendor }

// GrantTypeName returns the grant type as a value of the field grant_type.
func (c *Client) GrantTypeName() string {
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
	endpoints, err := c.resolveEndpoints(ctx, last)
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

// resolveEndpoints returns the endpoints of the server. Errors may quote its metadata, with the
// secrets masked.
func (c *Client) resolveEndpoints(ctx context.Context, last provider.Grant) (Endpoints, error) {
	endpoints, err := c.Server.resolveEndpoints(ctx, c.HTTP)
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
	form := merge(params, auth.params)
	reply, err := c.post(ctx, c.Server.tokenField(), tokenURL, auth, form, c.secrets(auth, refresh, form)...)
	if err != nil {
		return nil, err
	}
	response, failure := readToken(reply)
	granted := c.granted(response.refreshToken, refresh, last)
	switch {
	case failure == nil:
		return c.answer(response, reply.Clock, granted), nil
	case granted != nil:
		return &provider.Answer{Clock: reply.Clock, Grant: granted, Unusable: failure}, nil
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

func (c *Client) answer(t tokenResponse, clock provider.Clock, granted *provider.Grant) *provider.Answer {
	// RFC 6749 §5.1: without a scope in the response, the requested scope was granted.
	scope := provider.ReadScope(t.scope, slices.Concat(c.known, c.Scopes))
	if len(scope) == 0 {
		scope = c.Scopes
	}
	return &provider.Answer{
		AccessToken:         t.accessToken,
		RefreshToken:        t.refreshToken,
		TokenType:           t.tokenType,
		Scope:               scope,
		ExpiresIn:           provider.Lifetime(json.RawMessage(t.expiresIn), time.Second),
		Lifetime:            c.Lifetime,
		DefaultTTL:          c.DefaultTTL,
		InvalidatesPrevious: c.InvalidatesPrevious,
		Clock:               clock,
		Grant:               granted,
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

// A tokenResponse is the response of a token endpoint (RFC 6749 §5.1).
type tokenResponse struct {
	accessToken, refreshToken, tokenType string
	expiresIn                            provider.Number
	scope                                provider.Texts
}

// readToken reads the response of a token endpoint. The refresh token counts even if there is a
// failure.
func readToken(reply *provider.Reply) (tokenResponse, *provider.Error) {
	var body map[string]json.RawMessage
	var failure *provider.Error
	if err := reply.Decode(&body); errors.As(err, &failure) {
		return tokenResponse{}, failure
	}
	t := tokenResponse{accessToken: text(body["access_token"]), refreshToken: text(body["refresh_token"]), tokenType: text(body["token_type"])}
	if t.accessToken == "" && reply.HasError() {
		return tokenResponse{}, reply.Refusal()
	}
	if t.accessToken == "" || reply.HasError() {
		return t, reply.NoToken()
	}
	if t.tokenType == "" || strings.EqualFold(t.tokenType, "Bearer") { // RFC 6749 §5.1
		t.tokenType = "Bearer"
	}
	_ = t.expiresIn.UnmarshalJSON(body["expires_in"])
	_ = t.scope.UnmarshalJSON(body["scope"])
	return t, nil
}

// post sends a form to an endpoint, which a field gives, authenticated as the client. No error
// quotes the secrets.
func (c *Client) post(ctx context.Context, field, endpoint string, auth authentication, form url.Values, secrets ...string) (*provider.Reply, error) {
	setNonEmpty(form, "client_id", auth.id)
	setNonEmpty(form, "client_secret", auth.secret)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "%s: not a valid URL for a request", field)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	setNonEmpty(req.Header, "Authorization", auth.header)
	return c.HTTP.Do(req, secrets...)
}

func setNonEmpty(to interface{ Set(name, value string) }, name, value string) {
	if value != "" {
		to.Set(name, value)
	}
}

// text returns a JSON string; "" if raw is not one.
func text(raw json.RawMessage) string {
	var t provider.Text
	_ = t.UnmarshalJSON(raw)
	return string(t)
}
