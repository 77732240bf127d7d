package exchange

import (
	"encoding/base64"
	"errors"
	"net/url"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Styles of client authentication, as in OpenID Connect (Core §9) and in an authorization
// server's metadata (RFC 8414).
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt" // RFC 7523 §2.2
	None          = "none"

	// TLSClientAuth is a client certificate of the connection (RFC 8705 §2.1). HTTP has it.
	TLSClientAuth = "tls_client_auth"

	// Public is None with client_id in the body (RFC 6749 §3.2.1).
	Public = "public"

	// SecretBasicUnencoded is SecretBasic without the encoding that RFC 6749 §2.3.1
	// requires, which some vendors do not decode. The name is the engine's own. It matters
	// only if the client ID or secret has characters other than letters, digits, "-", "_",
	// "." and "~".
	SecretBasicUnencoded = "client_secret_basic_unencoded"
)

var (
	// AuthStyles are the styles that an operator can choose.
	AuthStyles = []string{SecretBasic, SecretBasicUnencoded, SecretPost, PrivateKeyJWT, IdentityToken, TLSClientAuth, None}

	// SecretStyles are those that need a client secret.
	SecretStyles = []string{SecretBasic, SecretBasicUnencoded, SecretPost}
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// authStyles returns the styles to try in turn; second is "" if there is only one. It is
// AuthStyle if that is set. Otherwise it is the style that worked last and then the other
// one, in case the vendor's setting has changed; before the first success, it is the styles
// that the metadata lists, or client_secret_basic, which RFC 6749 §2.3.1 requires of every
// server, and then client_secret_post.
func (c *Client) authStyles(last provider.Grant, listed []string) (first, second string) {
	if c.AuthStyle != "" {
		return c.AuthStyle, ""
	}
	styles := []string{SecretBasic, SecretPost}
	if len(listed) > 0 {
		isUnlisted := func(style string) bool { return !slices.Contains(listed, style) }
		if left := slices.DeleteFunc(slices.Clone(styles), isUnlisted); len(left) > 0 {
			styles = left
		}
	}
	if last.AuthStyle != "" {
		styles = append([]string{last.AuthStyle}, slices.DeleteFunc(styles, func(style string) bool { return style == last.AuthStyle })...)
	}
	if len(styles) == 1 {
		return styles[0], ""
	}
	return styles[0], styles[1]
}

// mayRepeat reports whether a refused request may be repeated. A vendor may take a refresh
// token or a code that it receives twice for a stolen one. It is therefore sent again only after
// invalid_client (RFC 6749 §5.2), which means that the vendor did not consider the grant.
func (c *Client) mayRepeat(err error) bool {
	var e *provider.Error
	return c.Refresh == "" && !c.isCode || errors.As(err, &e) && e.Code == "invalid_client"
}

// withStyleHint adds to a refusal how to set auth_style, if Exchange must not try the other
// style.
func withStyleHint(err error, untried string) error {
	var e *provider.Error
	if !errors.As(err, &e) {
		return err
	}
	hinted := *e
	hinted.Reason += "; if the vendor requires " + untried + ", set auth_style=" + untried + " (the engine sends a refresh token only once)"
	return &hinted
}

// isAboutStyle reports whether the style of client authentication may be the reason of a
// refusal.
func isAboutStyle(err error) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.Kind == provider.Rejected && slices.Contains([]string{"", "invalid_client", "invalid_request"}, e.Code)
}

// authenticate returns the client authentication for a request to an endpoint.
func (c *Client) authenticate(style, endpoint string, values Values) (authentication, error) {
	switch style {
	case SecretBasic:
		return authentication{header: basic(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))}, nil
	case SecretBasicUnencoded:
		return authentication{header: basic(c.ID, c.Secret)}, nil
	case SecretPost:
		return authentication{params: url.Values{"client_id": {c.ID}, "client_secret": {c.Secret}}}, nil
	case PrivateKeyJWT:
		assertion, err := c.sign(c.ClientAssertion, endpoint, values)
		if err != nil {
			return authentication{}, err
		}
		return c.asserted(assertion), nil
	case IdentityToken:
		return c.asserted(textOf(values[IdentityToken], nil)), nil
	case Public, TLSClientAuth:
		if c.ID != "" {
			return authentication{params: url.Values{"client_id": {c.ID}}}, nil
		}
	}
	return authentication{}, nil
}

// asserted returns the client authentication with a signed JWT (RFC 7523 §2.2).
func (c *Client) asserted(assertion string) authentication {
	params := url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
	if !c.IsAnonymous {
		params.Set("client_id", c.ID)
	}
	return authentication{params: params}
}

// basic returns an Authorization header for HTTP Basic (RFC 7617).
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

func isRejected(err error) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.Kind == provider.Rejected
}
