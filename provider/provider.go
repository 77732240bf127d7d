// Package provider defines what a vendor of access tokens looks like to the
// engine, and holds what every vendor's package needs: the HTTP client, the
// kinds of error, the reading of expiries and the checks of an operator's input.
//
// A vendor is a package below this one. It knows the vendor's HTTP and nothing
// of Vault's requests, storage or caching.
package provider

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// A Provider is one vendor's way from a long-lived credential to access tokens.
// Providers hold no state.
type Provider interface {
	// Name is the provider's segment of config/<provider>/<name>.
	Name() string

	// Summary says in one line what the vendor is.
	Summary() string

	// Fields are the vendor's own fields of a credential, beside those that every
	// credential has. Secrets are marked by DisplayAttrs.Sensitive. Where there is a
	// private_key, in PEM, an operator may have it made in Vault instead.
	Fields() map[string]*framework.FieldSchema

	// Open checks what an operator wrote and makes it usable, without calling the
	// vendor. Its errors are of kind Invalid.
	Open(Settings) (Credential, error)
}

// Settings are one credential's fields and what it needs to use them.
type Settings struct {
	// Fields is a JSON object of the fields that the operator set, and of a private_key
	// that was made for the credential.
	Fields json.RawMessage

	// Thumbprint is that of such a key (RFC 7638), by which a vendor knows it who was
	// given its JWK; "" if the operator gave the key.
	Thumbprint string

	// WriteTime is when the operator last wrote one of the secret fields.
	WriteTime time.Time

	Client *Client
}

// A Credential is what an operator stored, checked and ready for use. It may be
// used from several goroutines.
type Credential interface {
	// Exchange asks the vendor for an access token, with the grant that the last
	// exchange left behind (the zero Grant if none did). Its errors are of type
	// *Error and hold no secret.
	Exchange(ctx context.Context, last Grant) (*Answer, error)

	// Idle is how long the credential lives unused; zero if it does not die of
	// disuse.
	MaxIdle() time.Duration

	// Scope is what the credential's tokens are for; nil if only the vendor knows.
	Scope() []string

	// Destinations are where Exchange, and Revoke if there is one, send the credential's
	// secrets.
	Destinations() Destinations

	// Narrow is the credential with some of its scopes alone, to be exchanged with
	// grants of its own. Where there is no such thing its error, of kind Invalid,
	// says why.
	Narrow(scope []string) (Credential, error)
}

// A Fallback is a credential that may have another way to an access token than the grant that
// the last exchange left.
type Fallback interface {
	// Fallback returns the credential that goes the other way, to be exchanged with the zero
	// Grant; nil if an exchange with the grant has no other way.
	Fallback(last Grant) Credential
}

// A Granter is a credential that is exchanged by one of several grants, which the field
// grant_type names, or which follows from the fields that are set.
type Granter interface {
	// GrantName returns the grant as grant_type has it.
	GrantName() string
}

// A Revoker is a credential of a vendor who can end an access token before its time.
type Revoker interface {
	// Revocable is nil if there is a way to. It may call the vendor to find out. Its
	// error is of kind Invalid if there is none.
	Revocable(ctx context.Context) error

	// Independent is nil if ending one access token surely leaves the others, and what the
	// next exchange needs. Its error, of kind Invalid, says why it may not.
	Independent() error

	// Revoke ends an access token, with the grant that the last exchange left behind.
	// A token that is gone already is no error. Its errors are of type *Error and
	// hold no secret.
	Revoke(ctx context.Context, accessToken string, last Grant) error
}

// Destinations are where the secrets of a credential go. The zero Destinations are of one
// that is sent nowhere.
type Destinations struct {
	// URLs are those that requests with a secret, or with what it signs, are sent to.
	URLs []string

	// Issuer stands for the endpoints on its host that its metadata names; "" if none are
	// looked up.
	Issuer string

	// Audiences are the receivers that what a private key signs is valid for; "" is one
	// that only the metadata of the issuer names.
	Audiences []string
}

// A Grant is what one exchange leaves for the next.
type Grant struct {
	// RefreshToken replaces, or stands in for, the one that the operator stored.
	RefreshToken string `json:"refresh_token,omitempty"`

	// ExpireTime is when the refresh token dies; zero if that is not known.
	ExpireTime time.Time `json:"expire_time,omitzero"`

	// AccessLifetime is how long each access token lives that the refresh token
	// yields; zero if that is not known.
	AccessLifetime time.Duration `json:"access_lifetime,omitempty"`

	// AuthStyle is how the client authenticated itself, where that was found out.
	AuthStyle string `json:"auth_style,omitempty"`

	// Derived says that the refresh token came out of another secret of the
	// credential (an API key), which can always make a new one.
	Derived bool `json:"derived,omitempty"`
}

// A Token is an access token and what the engine knows of its life. Times are
// wall-clock times of this server, in UTC.
type Token struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	Scope       []string  `json:"scope,omitempty"`
	IssueTime   time.Time `json:"issue_time"`

	// ExpireTime is the earliest instant at which the token may be dead.
	ExpireTime time.Time `json:"expire_time"`

	// RenewableFrom is set for tokens that die together at a fixed time of day. It is
	// the first instant at which the vendor is sure to answer with a later one;
	// an exchange before it yields a token that dies no later than this one.
	RenewableFrom time.Time `json:"renewable_from,omitzero"`

	// NotRenewable is whether no exchange will ever yield a later token.
	NotRenewable bool `json:"not_renewable,omitempty"`

	// InvalidatesPrevious is whether the exchange that yielded the token has ended the one before.
	InvalidatesPrevious bool `json:"invalidates_previous,omitempty"`

	// ClockAhead is how far the vendor's clock was ahead of ours, at the least,
	// when it issued the token.
	ClockAhead time.Duration `json:"clock_ahead,omitempty"`

	// FirstTime is when the vendor first gave this very token, where the exchange at
	// IssueTime was not the first to yield it. Stated is whether one of them stated its
	// lifetime, which a vendor that goes on giving it counts down to 0.
	FirstTime time.Time `json:"first_time,omitzero"`
	Stated    bool      `json:"stated,omitempty"`

	// Seen is when, in this process, the times above were read, with the monotonic clock:
	// what the wall clock is set to afterwards makes no token last longer (see Now).
	Seen time.Time `json:"-"`
}

// first returns when the vendor first gave this very token.
func (t Token) first() time.Time {
	if t.FirstTime.IsZero() {
		return t.IssueTime
	}
	return t.FirstTime
}

// Now returns the time to compare the token's times with: the later of what the wall
// clock shows and what it would show had it run on since Seen. The wall clock may be
// stepped back, and the monotonic clock stops while a machine is suspended.
func (t Token) Now(now time.Time) time.Time {
	if t.Seen.IsZero() {
		return now
	}
	if ranOn := t.Seen.Round(0).Add(now.Sub(t.Seen)); ranOn.After(now) {
		return ranOn
	}
	return now
}

// At returns the token with its times by the wall clock as it is set now, whatever it was
// set to when they were read.
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
