package provider

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// CodeConsentRequired is the Code of the error of an exchange that needs a person's consent first.
const CodeConsentRequired = "consent_required"

// A Consenter is a credential whose refresh token can come from a person's consent at the vendor
// (RFC 6749 §4.1).
type Consenter interface {
	// Consent returns how a person consents; nil if the vendor has no authorization endpoint.
	Consent() Consent
}

// ConsentOf returns how a person consents to a credential; nil if that is not possible.
func ConsentOf(c Credential) Consent {
	if consenter, is := c.(Consenter); is {
		return consenter.Consent()
	}
	return nil
}

// A Consent is a person's consent to a credential, which yields its refresh token. Its errors are of type
// *Error and contain no secret.
type Consent interface {
	// IsMissing reports whether the credential has no refresh token, so that nothing can be exchanged.
	IsMissing() bool

	// IdentifiesPerson reports whether the vendor says who has consented.
	IdentifiesPerson() bool

	// URL returns where to send the person's browser. It may read the issuer's metadata.
	URL(ctx context.Context, r ConsentRequest) (string, error)

	// Redeem exchanges the code with which the browser has returned. issuer is the iss in its URL
	// (RFC 9207); "" if there is none. The answer has a RefreshToken, or there is an error. It may be
	// Unusable otherwise.
	Redeem(ctx context.Context, r ConsentRequest, code, issuer string) (*Answer, Person, error)

	// BeginDevice begins a consent on another device (RFC 8628 §3.1).
	BeginDevice(ctx context.Context) (*Device, error)

	// RedeemDevice exchanges a device code (RFC 8628 §3.4). Until the person has decided, the Code of its
	// error is CodePending or CodeSlowDown.
	RedeemDevice(ctx context.Context, deviceCode string) (*Answer, Person, error)
}

// Codes of the error of RedeemDevice (RFC 8628 §3.5).
const (
	CodePending  = "authorization_pending"
	CodeSlowDown = "slow_down"
	CodeDenied   = "access_denied"
	CodeExpired  = "expired_token"
)

// A Device is a consent that a person gives on a device of the person's own.
type Device struct {
	DeviceCode string // a secret

	UserCode                string
	VerificationURI         string
	VerificationURIComplete string // "" if the vendor has none

	// ExpiresIn is how long the codes are valid, and Interval the least time between two requests for the
	// token.
	ExpiresIn, Interval time.Duration
}

// A ConsentRequest is what the request for consent and the redemption of its code share.
type ConsentRequest struct {
	State        string // of the request only
	RedirectURI  string
	CodeVerifier string // RFC 7636
	Nonce        string // OpenID Connect Core §3.1.2.1
}

// A Person has the claims of the ID token about who has consented; nil if there was none. None has a secret of
// the credential.
type Person map[string]json.RawMessage

// RedirectURIDescription describes the field redirect_uri as a noun phrase.
const RedirectURIDescription = "the URL to which the person's browser returns, as it is registered at the vendor: that of callback, such as https://vault.example.com/v1/api/callback"

// RedirectURIField returns the field with the URL to which a person's browser returns.
func RedirectURIField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "T" + RedirectURIDescription[1:] + ".",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Redirect URI"},
	}
}
