// Package exchange exchanges a credential for an access token by requests that are described as data:
// where each value goes in a request, and where the token and its lifetime are in the answer. It
// authenticates the client as OAuth 2.0 (RFC 6749, RFC 7523) or HTTP Basic have it, signs assertions by
// the vendor's clock, keeps refresh tokens that rotate, and revokes tokens (RFC 7009).
package exchange

import (
	"cmp"
	"context"
	"slices"
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

// A Client is a client of a vendor, with the credentials to request access tokens. It is safe for
// concurrent use.
type Client struct {
	HTTP   *provider.Client
	Server *Server

	// GrantType is the way to a token, as a value of the field grant_type.
	GrantType string

	// ID and Secret are the client's. AuthStyle is how it authenticates; if it is "",
	// Exchange tries client_secret_basic and client_secret_post.
	ID        string
	Secret    string
	AuthStyle string

	// IsAnonymous omits client_id from a request that an assertion authenticates.
	IsAnonymous bool

	// Signer signs assertions: ClientAssertion, which authenticates the client (PrivateKeyJWT), and
	// Assertion, which a request has as {assertion}.
	Signer          *provider.Signer
	ClientAssertion Assertion
	Assertion       Assertion

	// Identity is the identity token of the server, {identity_token} in requests.
	Identity Identity

	// Values are the values of placeholders. Exchange adds token_url, scope, refresh_token, assertion,
	// now, now_ms, uuid and identity_token. Secrets are those among them that no error may quote.
	Values  Values
	Secrets []string

	// Refresh is the refresh token that the operator stored, or that a person's consent yielded; "" if the
	// exchange uses none. Authorization is how a person consents; nil if that is not possible.
	Refresh       string
	Authorization *Authorization

	// Missing is a field without which there is no token; "" if there is none. A role can set it.
	Missing string

	// isCode is whether Request exchanges a code, which the vendor accepts only once.
	isCode bool

	// Delegated is how a caller's token is exchanged; nil if that is not possible. isDelegated is whether
	// Request exchanges one.
	Delegated   *Delegated
	isDelegated bool

	// Scopes are the scopes to request; none requests the vendor's default.
	Scopes []string

	// known are the scopes of the credential that this one narrows.
	known []string

	// Before are requests before the token request. Their answers have values that later requests use.
	Before []Step

	// Request is the token request, and Reading how its answer is read. Without a request
	// (IsSelfSigned), the assertion is the token.
	Request      Request
	Reading      Reading
	IsSelfSigned bool

	// Again yields further tokens from a refresh token in the answer to Request; nil if there is no such
	// request. If it is rejected, Request is sent again. AgainReading is how its answer is read; nil for
	// Reading.
	Again        *Request
	AgainReading *Reading

	// Revocation is the request that revokes a token, {token}; nil for that of RFC 7009. RevocationAuth is
	// how the client authenticates for it; "" for AuthStyle.
	Revocation     *Request
	RevocationAuth string

	// Lifetime is the vendor's documented lifetime of a token if nothing states it, OnTheHour whether it
	// then ends at the next full hour, and DefaultTTL that of the operator or of a definition; zero if
	// unknown.
	Lifetime   time.Duration
	OnTheHour  bool
	DefaultTTL time.Duration

	// IdleExpiry is how long the refresh token stays valid without use; zero if it does
	// not expire from disuse, or if this is unknown.
	IdleExpiry time.Duration

	// MaxTokenAge is how long the refresh token stays valid, whatever is done; zero if it
	// does not expire, or if this is unknown.
	MaxTokenAge time.Duration

	// InvalidatesPrevious reports whether an exchange invalidates the previous token.
	InvalidatesPrevious bool

	// RenewalWindow is the end of a token's lifetime in which the vendor issues the next one; zero if it
	// does so at any time.
	RenewalWindow time.Duration
}

// A Step is a request before the token request.
type Step struct {
	URL     string
	Request Request

	// Keep has the JSON Pointers of the values to keep, by the names of their placeholders.
	Keep map[string]string
}

// MaxIdle returns how long the refresh token stays valid without use.
func (c *Client) MaxIdle() time.Duration { return c.IdleExpiry }

// Lacks implements provider.Partial.
func (c *Client) Lacks() string { return c.Missing }

// MaxAge implements provider.Limited.
func (c *Client) MaxAge() time.Duration { return c.MaxTokenAge }

// GrantTypeName returns the grant type as a value of the field grant_type.
func (c *Client) GrantTypeName() string { return c.GrantType }

// Scope returns the requested scopes.
func (c *Client) Scope() []string { return c.Scopes }

// Narrow returns a client that requests only some of the scopes. A refresh request can state
// its scope too (RFC 6749 §6).
func (c *Client) Narrow(scope []string) (provider.Credential, error) {
	if c.InvalidatesPrevious {
		return nil, provider.Errorf(provider.Invalid, "scope: an exchange invalidates the previous token, so a credential cannot have one per scope; omit scope")
	}
	if !c.sendsScope() {
		return nil, provider.Errorf(provider.Invalid, "scope: the vendor issues tokens for all that the credential may do, and takes no scope; omit scope")
	}
	if err := provider.CheckNarrower("scope", scope, c.Scopes); err != nil {
		return nil, err
	}
	narrow := *c
	narrow.Scopes, narrow.known = scope, slices.Concat(c.known, c.Scopes)
	return &narrow, nil
}

// sendsScope reports whether a request or an assertion has a scope.
func (c *Client) sendsScope() bool {
	own := *c
	if own.Delegated != nil && !own.Delegated.IsOnly {
		own.Delegated = nil
	}
	names := own.names()
	for _, a := range own.assertions() {
		names = append(names, a.Claims.Names()...)
	}
	return slices.Contains(names, "scope")
}

// Exchange requests an access token from the token endpoint. It repeats a refused request
// if the vendor may have refused the dates of an assertion, and with another style of
// client authentication if AuthStyle is empty.
func (c *Client) Exchange(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	if c.Missing != "" {
		return nil, provider.Errorf(provider.Invalid, "%s: must be set, and the credential leaves it to roles; read the token of a role that sets it", c.Missing)
	}
	if c.IsSelfSigned {
		return c.signToken()
	}
	if c.Delegated != nil && c.Delegated.IsOnly {
		return nil, provider.Errorf(provider.Invalid, "the credential has no token of its own; it exchanges those of callers at exchange/<name>")
	}
	if c.Authorization != nil && c.Refresh == "" && last.RefreshToken == "" {
		refusal := provider.Errorf(provider.Rejected, "no person has consented yet; begin with a write to authorize/<name>")
		refusal.Code = provider.CodeConsentRequired
		return nil, refusal
	}
	ctx = provider.WithSecrets(ctx, c.Secrets...)
	endpoints, err := c.resolveEndpoints(ctx, last)
	if err != nil {
		return nil, err
	}
	first, second := c.authStyles(last, endpoints.tokenMethods)
	answer, err := c.exchangeWith(ctx, endpoints.Token, last, first)
	switch {
	case second == "" || !isAboutStyle(err):
	case c.isDelegated && !c.mayRepeat(err): // the caller's token is the more likely reason
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

// Fallback returns the client for the operator's own secrets, if an exchange with last would use a
// refresh token that they yielded.
func (c *Client) Fallback(last provider.Grant) provider.Credential {
	if !c.goesOn(last) {
		return nil
	}
	other := *c
	other.Again = nil
	return &other
}

// goesOn reports whether an exchange with last uses Again.
func (c *Client) goesOn(last provider.Grant) bool {
	return c.Again != nil && last.Derived && last.RefreshToken != ""
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
	request, reading := c.Request, &c.Reading
	values := c.values(refresh)
	if c.goesOn(last) {
		request, tokenURL, reading = *c.Again, c.Again.URL, cmp.Or(c.AgainReading, reading)
	} else if err := c.runSteps(ctx, values); err != nil {
		return nil, err
	}
	reply, err := c.send(ctx, c.Server.tokenField(), tokenURL, request, style, values)
	if err != nil {
		return nil, err
	}
	response, failure := reading.readToken(reply)
	granted := c.granted(response, refresh, last)
	switch {
	case failure == nil:
		return c.answer(response, reply.Clock, granted), nil
	case granted != nil:
		return &provider.Answer{Clock: reply.Clock, Grant: granted, Unusable: failure}, nil
	case c.isCode && failure.Kind == provider.InvalidResponse && provider.Replacement(response.refreshToken, "") != "":
		// The code is spent, so the refresh token must not be lost (guarantee 3).
		return &provider.Answer{Clock: reply.Clock, RefreshToken: response.refreshToken, Extra: response.extra, Unusable: failure}, nil
	}
	return nil, failure
}

func (c *Client) answer(t tokenResponse, clock provider.Clock, granted *provider.Grant) *provider.Answer {
	// RFC 6749 §5.1: without a scope in the response, the requested scope was granted.
	separator, _ := c.Values[ScopeSeparator].(string)
	scope := provider.ReadScope(t.scope, slices.Concat(c.known, c.Scopes), separator)
	if len(scope) == 0 {
		scope = c.Scopes
	}
	return &provider.Answer{
		AccessToken:         t.accessToken,
		RefreshToken:        t.refreshToken,
		TokenType:           t.tokenType,
		Scope:               scope,
		ExpiresIn:           t.expiresIn,
		ExpiresAt:           t.expiresAt,
		Lifetime:            c.Lifetime,
		OnTheHour:           c.OnTheHour,
		DefaultTTL:          c.DefaultTTL,
		InvalidatesPrevious: c.InvalidatesPrevious,
		RenewalWindow:       c.RenewalWindow,
		Extra:               t.extra,
		Granted:             t.granted,
		Clock:               clock,
		Grant:               granted,
	}
}

// granted returns the grant for the next exchange: with a rotated refresh token, or with the one that
// the operator's other secrets yielded. It is nil if the token is the same.
func (c *Client) granted(t tokenResponse, refresh string, last provider.Grant) *provider.Grant {
	next := provider.Replacement(t.refreshToken, refresh)
	switch {
	case c.Again != nil && next != "":
		return &provider.Grant{RefreshToken: next, AuthStyle: last.AuthStyle, Derived: true}
	case c.Again != nil && t.accessToken != "" && !c.goesOn(last):
		return &provider.Grant{AuthStyle: last.AuthStyle, Derived: true}
	case c.Refresh == "" || next == "":
		return nil
	}
	return &provider.Grant{RefreshToken: next, AuthStyle: last.AuthStyle}
}
