package oauth2

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/go-uuid"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Styles of client authentication, as in OpenID Connect (Core §9) and in an authorization
// server's metadata (RFC 8414).
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt" // RFC 7523 §2.2
	None          = "none"

	// SecretBasicUnencoded is SecretBasic without the encoding that RFC 6749 §2.3.1
	// requires, which some vendors do not decode. The name is the engine's own. It matters
	// only if the client ID or secret has characters other than letters, digits, "-", "_",
	// "." and "~".
	SecretBasicUnencoded = "client_secret_basic_unencoded"
)

var (
	allAuthStyles = []string{SecretBasic, SecretBasicUnencoded, SecretPost, PrivateKeyJWT, None}
	secretStyles  = []string{SecretBasic, SecretBasicUnencoded, SecretPost}
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// An Assertion has the settings of a client's assertions.
type Assertion struct {
	// Audience is the aud claim; "" for the URL of the request.
	Audience string

	// Subject is the sub claim of a JWTBearer grant; "" omits it.
	Subject string

	// HoldsScope sends the scope of a JWTBearer grant in the assertion instead of in the
	// form.
	HoldsScope bool

	// Anonymous omits client_id from the form if an assertion authenticates the client.
	Anonymous bool
}

// authentication is the part of a request that authenticates the client.
type authentication struct {
	id, secret string     // form parameters; "" to omit
	params     url.Values // further form parameters
	header     string     // Authorization; "" for none
}

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
// token that it receives twice for a stolen one. It is therefore sent again only after
// invalid_client (RFC 6749 §5.2), which means that the vendor did not consider the grant.
func (c *Client) mayRepeat(err error) bool {
	var e *provider.Error
	return c.GrantType != RefreshToken || errors.As(err, &e) && e.Code == "invalid_client"
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
func (c *Client) authenticate(style, endpoint string) (authentication, error) {
	switch style {
	case SecretBasic:
		return authentication{header: basic(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))}, nil
	case SecretBasicUnencoded:
		return authentication{header: basic(c.ID, c.Secret)}, nil
	case SecretPost:
		return authentication{id: c.ID, secret: c.Secret}, nil
	case PrivateKeyJWT:
		assertion, err := c.sign(c.claims(endpoint, c.ID))
		if err != nil {
			return authentication{}, err
		}
		a := authentication{id: c.ID, params: url.Values{
			"client_assertion_type": {assertionType},
			"client_assertion":      {assertion},
		}}
		if c.Assertion.Anonymous {
			a.id = ""
		}
		return a, nil
	}
	a := authentication{id: c.ID}
	if c.GrantType == JWTBearer {
		a.id = "" // it is in the assertion
	}
	return a, nil
}

// basic returns an Authorization header for HTTP Basic (RFC 7617).
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

// claims returns the claims of an assertion for a request to an endpoint, which is the
// audience if Assertion.Audience is empty. An empty subject is omitted.
func (c *Client) claims(endpoint, subject string) map[string]any {
	issued := c.issueTime(endpoint)
	claims := map[string]any{
		"iss": c.ID,
		"aud": endpoint,
		"iat": issued.Unix(),
		"exp": issued.Add(assertionLifetime).Unix(),
	}
	if subject != "" {
		claims["sub"] = subject
	}
	if c.Assertion.Audience != "" {
		claims["aud"] = c.Assertion.Audience
	}
	return claims
}

// bearerClaims returns the claims of the assertion of a JWTBearer grant.
func (c *Client) bearerClaims(tokenURL string) map[string]any {
	claims := c.claims(tokenURL, c.Assertion.Subject)
	if c.Assertion.HoldsScope && len(c.Scopes) > 0 {
		claims["scope"] = strings.Join(c.Scopes, " ")
	}
	return claims
}

// sign signs claims with a unique ID (jti).
func (c *Client) sign(claims map[string]any) (string, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return "", provider.Errorf(provider.Unavailable, "cannot generate a random ID for the assertion: %s", err)
	}
	claims["jti"] = id
	return c.Signer.Sign(claims)
}

func merge(a, b url.Values) url.Values {
	maps.Copy(a, b)
	return a
}
