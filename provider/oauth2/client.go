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

// Grant types, as they are sent.
const (
	RefreshToken       = "refresh_token"                               // RFC 6749 §6
	ClientCredentials  = "client_credentials"                          // RFC 6749 §4.4
	JWTBearer          = "urn:ietf:params:oauth:grant-type:jwt-bearer" // RFC 7523 §2.1
	AccountCredentials = "account_credentials"                         // Zoom's own
)

// A Client asks an authorization server for access tokens, as one of its clients.
type Client struct {
	HTTP   *provider.Client
	Server *Server

	// GrantType is one of those above.
	GrantType string

	// ID and Secret are the client's, and AuthStyle how it proves itself; "" is to be
	// found out.
	ID        string
	Secret    string
	AuthStyle string

	// Signer signs assertions: of the client itself (private_key_jwt), or of whom it
	// asks for (JWTBearer).
	Signer    *provider.Signer
	Assertion Assertion

	// Refresh is the refresh token that the operator stored.
	Refresh string

	// Scopes are what to ask for; none leaves it to the vendor.
	Scopes []string

	// known are the scopes of the credential that this one narrows.
	known []string

	// Params are sent along.
	Params map[string]string

	// Lifetime is the vendor's documented rule for a token that does not state its
	// lifetime, and DefaultTTL what the operator, or the preset, assumes; zero is none.
	Lifetime   time.Duration
	DefaultTTL time.Duration

	// IdleExpiry is how long the refresh token lives unused; zero if it does not die
	// of disuse, or nobody knows.
	IdleExpiry time.Duration

	// InvalidatesPrevious is whether the vendor ends a token when the next is exchanged.
	InvalidatesPrevious bool
}

// Idle is how long the refresh token lives unused.
func (c *Client) MaxIdle() time.Duration { return c.IdleExpiry }

// GrantName is the grant that is exchanged, as the field grant_type has it.
func (c *Client) GrantName() string {
	for name, sent := range grantTypes {
		if sent == c.GrantType {
			return name
		}
	}
	return ""
}

// Scope is what is asked for.
func (c *Client) Scope() []string { return c.Scopes }

// Destinations are the endpoints, or the issuer that they are looked up at.
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
	default: // each endpoint is its own
		d.Audiences = slices.Clone(d.URLs)
		if d.Issuer != "" {
			d.Audiences = append(d.Audiences, "")
		}
	}
	return d
}

// Narrow asks for less: each request states its scope, that of a refresh included
// (RFC 6749 §6).
func (c *Client) Narrow(scope []string) (provider.Credential, error) {
	if c.InvalidatesPrevious {
		return nil, provider.Errorf(provider.Invalid, "scope: the vendor ends a token when another is exchanged, so that there cannot be one of each scope; leave scope out")
	}
	if err := provider.CheckNarrower("scope", scope, c.Scopes); err != nil {
		return nil, err
	}
	narrow := *c
	narrow.Scopes, narrow.known = scope, slices.Concat(c.known, c.Scopes)
	return &narrow, nil
}

// Exchange asks the token endpoint for an access token. It asks once more if a refusal
// shows that the vendor may not take an assertion for its dates, and if nobody has said how
// the client proves itself and the first way is refused.
func (c *Client) Exchange(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	endpoints, err := c.endpoints(ctx, last)
	if err != nil {
		return nil, err
	}
	first, second := c.authStyles(last, endpoints.tokenMethods)
	answer, err := c.timesMovedForward(ctx, endpoints.Token, last, first)
	switch {
	case second == "" || !isAboutStyle(err):
	case !c.mayAskAgain(err):
		err = withStyleHint(err, second)
	default:
		first = second
		if again, againErr := c.timesMovedForward(ctx, endpoints.Token, last, second); againErr == nil || !isAboutStyle(againErr) {
			answer, err = again, againErr
		}
	}
	if err == nil && c.AuthStyle == "" && first != last.AuthStyle {
		c.remember(answer, last, first)
	}
	return answer, provider.CheckField(err, c.Server.tokenField())
}

// endpoints are those of the server. Errors quote its metadata, but none of the secrets.
func (c *Client) endpoints(ctx context.Context, last provider.Grant) (Endpoints, error) {
	endpoints, err := c.Server.endpoints(ctx, c.HTTP)
	return endpoints, provider.Masked(ctx, err, c.Secret, c.Refresh, last.RefreshToken)
}

// remember leaves the style that worked for the next exchange.
func (c *Client) remember(a *provider.Answer, last provider.Grant, style string) {
	if a.Grant == nil {
		a.Grant = &last
	}
	next := *a.Grant
	next.AuthStyle = style
	a.Grant = &next
}

// timesMovedForward asks by the vendor's clock as it is known, and again if a refusal shows that it
// may have been for the assertion's dates.
func (c *Client) timesMovedForward(ctx context.Context, tokenURL string, last provider.Grant, style string) (*provider.Answer, error) {
	ahead := c.vendorAhead(tokenURL)
	answer, err := c.ask(ctx, tokenURL, last, style)
	if isRejected(err) && c.mayAskAgain(err) && c.isMisdated(tokenURL, ahead) {
		answer, err = c.ask(ctx, tokenURL, last, style)
	}
	return answer, c.withSkew(err)
}

func (c *Client) ask(ctx context.Context, tokenURL string, last provider.Grant, style string) (*provider.Answer, error) {
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

// params are those of the grant.
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

// secrets are what a request holds that no error may quote.
func (c *Client) secrets(auth authentication, refresh string, params url.Values) []string {
	return []string{c.Secret, refresh, params.Get("assertion"), params.Get("client_assertion"), strings.TrimPrefix(auth.header, "Basic ")}
}

func (c *Client) answer(token *oauth2.Token, e *exchange, refresh string, last provider.Grant) *provider.Answer {
	// RFC 6749 §5.1: an answer without a scope grants what was asked for.
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

// granted is what to exchange next, if it is another refresh token than the last.
func (c *Client) granted(refreshToken, refresh string, last provider.Grant) *provider.Grant {
	next := provider.Replacement(refreshToken, refresh)
	if c.GrantType != RefreshToken || next == "" {
		return nil
	}
	return &provider.Grant{RefreshToken: next, AuthStyle: last.AuthStyle}
}

// exchange carries one request of x/oauth2's by the provider's own client, which knows
// what an answer is good for.
type exchange struct {
	client        *provider.Client
	authorization string // the header; "" for none
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
	e.refreshToken = refreshToken // which is good even where the rest of the answer is not
	if accessToken == "" || reply.HasError() {
		return nil, reply.NoToken()
	}
	_ = e.expiresIn.UnmarshalJSON(body["expires_in"])
	_ = e.scope.UnmarshalJSON(body["scope"])
	// x/oauth2 takes nothing of an answer in which something is of another type than it
	// should be, and nothing after the first MiB, to which escapes for HTML count.
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

// text is a string of an answer; "" if it is not one.
func text(raw json.RawMessage) string {
	var t provider.Text
	_ = t.UnmarshalJSON(raw)
	return string(t)
}

// failure is an error of x/oauth2's, which may quote the answer, as one of ours.
func (e *exchange) failure(err error) *provider.Error {
	var failure *provider.Error
	if errors.As(err, &failure) {
		return failure
	}
	return provider.Errorf(provider.InvalidResponse, "the vendor's answer holds no access token")
}
