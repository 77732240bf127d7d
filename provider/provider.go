// Package provider defines the contract between the engine and the vendors that issue
// access tokens. It also has what the vendors' packages share: the HTTP client, the
// kinds of error, the computation of expiries and the input checks.
//
// Each vendor is a package below this one. A vendor's package implements the vendor's
// HTTP API. It does not depend on Vault's requests, storage or caching.
package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// A Provider exchanges the credentials of one vendor for access tokens. Providers are
// stateless.
type Provider interface {
	// Name returns the segment in config/<vendor>/<name>.
	Name() string

	// Summary describes the vendor in one line.
	Summary() string

	// About returns what operators of the vendor read in vendors/<vendor>.
	About() About

	// Example returns the fields of a typical credential as arguments of vault write, with
	// ... in place of each secret. The help shows it.
	Example() string

	// Fields returns the vendor's own fields of a credential; the fields that every
	// credential has are not among them. Secret fields set DisplayAttrs.Sensitive. If
	// there is a private_key field (PEM), Vault can generate the key instead.
	Fields() map[string]*framework.FieldSchema

	// Open validates the fields and returns a Credential that uses them. It does not call
	// the vendor. Its errors are of kind Invalid.
	Open(Settings) (Credential, error)
}

// An About is what a provider documents of its vendor. Its members may be empty.
type About struct {
	Notes      string   // what to create at the vendor, and its limits
	Docs       []string // the vendor's pages
	Evidence   string   // what these pages are
	GrantTypes []string // the values of the field grant_type; the first whose fields are set is the default
}

// Settings are the input of [Provider.Open].
type Settings struct {
	// Fields is a JSON object of the fields that the operator set. If Vault generated the
	// key pair, private_key is among them.
	Fields json.RawMessage

	// Thumbprint is the JWK thumbprint (RFC 7638) of a generated key, the default key ID
	// at vendors that receive the JWK. It is empty if the operator gave the key.
	Thumbprint string

	// Issuer is the issuer of the generated key pair, whose public keys anyone can read; "" if it has none.
	// Subject is the subject for which the issuer signs by default.
	Issuer  string
	Subject string

	// IdentityToken requests an identity token of the server; nil if there is no server.
	IdentityToken IdentityTokenFunc

	// WriteTime is when the operator last wrote one of the secret fields.
	WriteTime time.Time

	Client *Client
}

// A Credential is a validated credential, ready for exchanges. It is safe for concurrent
// use.
type Credential interface {
	// Exchange requests an access token from the vendor. last is the grant that the
	// previous exchange returned, or the zero Grant. Errors are of type *Error and contain
	// no secret.
	Exchange(ctx context.Context, last Grant) (*Answer, error)

	// MaxIdle returns how long the credential stays valid without use; zero if it does
	// not expire from disuse.
	MaxIdle() time.Duration

	// Scope returns the scopes of the credential's tokens; nil if only the vendor knows
	// them.
	Scope() []string

	// Destinations returns where Exchange and Revoke send the credential's secrets.
	Destinations() Destinations

	// Narrow returns a credential for some of the scopes only. Its grants are separate
	// from those of the original. If the credential cannot be narrowed, the error is of
	// kind Invalid and states the reason.
	Narrow(scope []string) (Credential, error)
}

// A Limited is a credential that expires at a time, whatever is done.
type Limited interface {
	// MaxAge returns how long the credential stays valid from when it was issued; zero if it
	// does not expire, or if this is unknown.
	MaxAge() time.Duration
}

// A Signing is a credential with a private key that signs assertions or tokens.
type Signing interface {
	// SignedLifetime returns for how long the vendor accepts what the key signs; zero if the key signs
	// nothing.
	SignedLifetime() time.Duration
}

// A Presented is a credential of a vendor whose API takes a token in a way of its own.
type Presented interface {
	// API returns how the vendor's API takes a token; nil for the usual way.
	API() *API
}

// An API is how a vendor's API takes a token. A nil API is "Authorization: Bearer".
type API struct {
	Header  string            // the request header; "" for Authorization
	Scheme  string            // before the token; "" for the token's type in Authorization, for nothing elsewhere
	Query   string            // the query parameter, instead of a header
	Headers map[string]string // further headers
}

// TokenType returns what precedes a token in its header; "" for nothing.
func (a *API) TokenType(t *Token) string {
	if a == nil || a.Header == "" && a.Scheme == "" {
		return t.TokenType
	}
	return a.Scheme
}

// HTTPHeader returns the header to send a token with; "" if it is sent as a query parameter.
func (a *API) HTTPHeader(t *Token) string {
	name := "Authorization"
	switch {
	case a == nil:
		return name + ": " + t.TokenType + " " + t.AccessToken
	case a.Query != "":
		return ""
	}
	return cmp.Or(a.Header, name) + ": " + strings.TrimPrefix(a.TokenType(t)+" ", " ") + t.AccessToken
}

// QueryParameter returns the query parameter to send a token with, escaped; "" if it is sent in a header.
func (a *API) QueryParameter(t *Token) string {
	if a == nil || a.Query == "" {
		return ""
	}
	return url.Values{a.Query: {t.AccessToken}}.Encode()
}

// AddTo adds to data what readers need to send a token: http_header or query_parameter, and
// other_http_headers.
func (a *API) AddTo(data map[string]any, t *Token) {
	if header := a.HTTPHeader(t); header != "" {
		data["http_header"] = header
	}
	if query := a.QueryParameter(t); query != "" {
		data["query_parameter"] = query
	}
	if a != nil && len(a.Headers) > 0 {
		data["other_http_headers"] = a.Headers
	}
}

// A Fallback is a credential that can exchange another of its secrets if the vendor
// rejects the grant of the previous exchange.
type Fallback interface {
	// Fallback returns the credential for the other secret, which is exchanged with the
	// zero Grant. It returns nil if an exchange with last has no alternative.
	Fallback(last Grant) Credential
}

// A Granter is a credential with a choice of OAuth 2.0 grant types. The operator chooses one
// with grant_type, or it follows from the fields that are set.
type Granter interface {
	// GrantTypeName returns the grant type as a value of the field grant_type.
	GrantTypeName() string
}

// A Revoker is a credential of a vendor that can revoke access tokens.
type Revoker interface {
	// Revocable returns nil if the vendor has a revocation endpoint, and an error of kind
	// Invalid if it has none. It may call the vendor to find out.
	Revocable(ctx context.Context) error

	// Independent returns nil if revoking an access token is known to leave the other
	// access tokens, and the grant for the next exchange, valid. Otherwise its error, of
	// kind Invalid, states the reason.
	Independent() error

	// Revoke revokes an access token. last is the grant that the previous exchange
	// returned. A token that is already invalid is not an error. Errors are of type *Error
	// and contain no secret.
	Revoke(ctx context.Context, accessToken string, last Grant) error
}

// Destinations are the endpoints and audiences that receive a credential's secrets. They
// are zero if the secrets are never sent.
type Destinations struct {
	// URLs receive requests that contain a secret or something signed with one.
	URLs []string

	// Issuer stands for the endpoints on its host that its metadata lists. It is empty if
	// no metadata is read.
	Issuer string

	// Audiences are the audiences of the JWTs that a private key signs, and of identity tokens. An empty
	// string stands for an endpoint that only the issuer's metadata names.
	Audiences []string

	// Subjects are the subjects of the JWTs that a private key signs.
	Subjects []Subject

	// Signs reports whether the secret signs tokens for readers, and is sent to no endpoint.
	Signs bool
}

// A Subject is whom a JWT is about (sub), and who says so (iss). An empty string stands for a claim that is
// known only when the JWT is signed, and an empty subject also for none.
type Subject struct{ Issuer, Subject string }

// NoIssuer is the Issuer of a JWT that has no iss.
const NoIssuer = "(none)"

// A Grant is what one exchange leaves for the next.
type Grant struct {
	// RefreshToken is used instead of the refresh token that the operator stored.
	RefreshToken string `json:"refresh_token,omitempty"`

	// ExpireTime is when the refresh token expires; zero if unknown.
	ExpireTime time.Time `json:"expire_time,omitzero"`

	// AccessLifetime is the lifetime of each access token that the refresh token yields;
	// zero if unknown.
	AccessLifetime time.Duration `json:"access_lifetime,omitempty"`

	// AuthStyle is the client authentication that worked, if several were tried.
	AuthStyle string `json:"auth_style,omitempty"`

	// Derived reports whether the refresh token was issued for another secret of the
	// credential (an API key), which can always yield a new one.
	Derived bool `json:"derived,omitempty"`
}

// A Token is an access token with its lifetime. Times are wall-clock times of this
// server, in UTC.
type Token struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	Scope       []string  `json:"scope,omitempty"`
	IssueTime   time.Time `json:"issue_time"`

	// ExpireTime is the earliest time at which the token may have expired.
	ExpireTime time.Time `json:"expire_time"`

	// RenewableFrom is the earliest time at which a renewal is useful; zero if it is useful
	// at any time. Before it, an exchange yields a token that expires no later than this
	// one, as with tokens that all expire on the hour, or invalidates this one early.
	RenewableFrom time.Time `json:"renewable_from,omitzero"`

	// NotRenewable reports whether no exchange will ever yield a later token.
	NotRenewable bool `json:"not_renewable,omitempty"`

	// InvalidatesPrevious reports whether an exchange invalidates the token of the
	// previous one.
	InvalidatesPrevious bool `json:"invalidates_previous,omitempty"`

	// ClockAhead is the lower bound of how far the vendor's clock was ahead of this
	// server's when it issued the token.
	ClockAhead time.Duration `json:"clock_ahead,omitempty"`

	// FirstTime is when the vendor first returned this token, if the exchange at IssueTime
	// returned it again. Stated reports whether any of those responses stated a lifetime;
	// a vendor that returns the same token again counts the lifetime down to 0.
	FirstTime time.Time `json:"first_time,omitzero"`
	Stated    bool      `json:"stated,omitempty"`

	// Extra are further members of the response, for readers.
	Extra map[string]string `json:"extra,omitempty"`

	// Warnings say in what the token differs from what was asked for.
	Warnings []string `json:"warnings,omitempty"`

	// Seen is when this process read the times above. It has a monotonic clock reading, so
	// that a later change of the wall clock does not extend the token's lifetime (see Now).
	Seen time.Time `json:"-"`
}

// first returns when the vendor first returned this token.
func (t Token) first() time.Time {
	if t.FirstTime.IsZero() {
		return t.IssueTime
	}
	return t.FirstTime
}

// Now returns the time to compare the token's times with. It is the later of the wall
// clock now and the wall clock at Seen plus the monotonic time since then: the wall clock
// may be stepped back, and the monotonic clock stops while a machine is suspended.
func (t Token) Now(now time.Time) time.Time {
	if t.Seen.IsZero() {
		return now
	}
	if ranOn := t.Seen.Round(0).Add(now.Sub(t.Seen)); ranOn.After(now) {
		return ranOn
	}
	return now
}

// At returns the token with its times adjusted to the current setting of the wall clock.
func (t Token) At(now time.Time) Token {
	by := now.Sub(t.Now(now))
	t.Seen = time.Time{}
	for _, at := range []*time.Time{&t.IssueTime, &t.ExpireTime, &t.RenewableFrom, &t.FirstTime} {
		if !at.IsZero() {
			*at = at.Add(by)
		}
	}
	return t
}
