package provider

import (
	"context"

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

	// URL returns where to send the person's browser. It may read the issuer's metadata.
	URL(ctx context.Context, r ConsentRequest) (string, error)

	// Redeem exchanges the code with which the browser has returned. issuer is the iss in its URL
	// (RFC 9207); "" if there is none. The answer has a RefreshToken, or there is an error.
	Redeem(ctx context.Context, r ConsentRequest, code, issuer string) (*Answer, Person, error)
}

// A ConsentRequest is what the request for consent and the redemption of its code share.
type ConsentRequest struct {
	State        string // of the request only
	RedirectURI  string
	CodeVerifier string // RFC 7636
	Nonce        string // OpenID Connect Core §3.1.2.1
}

// A Person has the claims of the ID token about who has consented; nil if there was none.
type Person map[string]any

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
