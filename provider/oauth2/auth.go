package oauth2

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/go-uuid"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Ways for a client to prove itself, by their names in OpenID Connect (Core §9) and in
// an authorization server's metadata (RFC 8414).
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt" // RFC 7523 §2.2
	None          = "none"

	// SecretBasicUnencoded is a name of our own: SecretBasic without the encoding that
	// RFC 6749 §2.3.1 asks for, which some vendors do not undo. It makes a difference where
	// the client's ID or secret has other characters than letters, digits, "-", "_", "."
	// and "~".
	SecretBasicUnencoded = "client_secret_basic_unencoded"
)

var (
	authStyles   = []string{SecretBasic, SecretBasicUnencoded, SecretPost, PrivateKeyJWT, None}
	secretStyles = []string{SecretBasic, SecretBasicUnencoded, SecretPost}
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Assertion is what is particular about assertions.
type Assertion struct {
	// Audience is whom they are for; "" is the endpoint that is called.
	Audience string

	// Subject is whom a JWTBearer grant asks for; "" leaves it out, or is the client.
	Subject string

	// HoldsScope is whether the scope goes into a JWTBearer grant's assertion and not
	// into the form.
	HoldsScope bool

	// Anonymous leaves client_id out of the form, where the assertion says it.
	Anonymous bool
}

// authentication is what of a request proves the client.
type authentication struct {
	id, secret string     // in the form; "" leaves it out
	params     url.Values // in the form, too
	header     string     // Authorization; "" for none
}

// authStyles are the ways to try in turn: the one that is set; or else the one that has
// worked, and the other one, in case the vendor has changed its mind; or else those that the
// metadata list, or both. RFC 6749 §2.3.1 has every server know the first. second is "" if
// there is only one.
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

// mayAskAgain is whether a refused request may be repeated in another way. A refresh token
// may be good for one use, and count as stolen if it comes twice: it is sent again only if
// the vendor says that it has not got beyond the client (RFC 6749 §5.2).
func (c *Client) mayAskAgain(err error) bool {
	var e *provider.Error
	return c.GrantType != RefreshToken || errors.As(err, &e) && e.Code == "invalid_client"
}

// withStyleHint is a refusal with what to do if it is of how the client proved itself, which
// has not been found out.
func withStyleHint(err error, untried string) error {
	var e *provider.Error
	if !errors.As(err, &e) {
		return err
	}
	hinted := *e
	hinted.Reason += "; if the vendor takes " + untried + ", set auth_style to that: a refresh token is not sent twice to find out"
	return &hinted
}

// isAboutStyle is whether a refusal may be of how the client proved itself.
func isAboutStyle(err error) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.Kind == provider.Rejected && slices.Contains([]string{"", "invalid_client", "invalid_request"}, e.Code)
}

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
		a.id = "" // which the assertion says
	}
	return a, nil
}

// basic is the header of HTTP Basic authentication (RFC 7617).
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

// claims say who asks (iss), for whom (sub), to whom (aud), and for how long. They are
// for an endpoint, which is their audience if no other is set.
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

// bearerClaims are those of an assertion that is the grant itself.
func (c *Client) bearerClaims(tokenURL string) map[string]any {
	claims := c.claims(tokenURL, c.Assertion.Subject)
	if c.Assertion.HoldsScope && len(c.Scopes) > 0 {
		claims["scope"] = strings.Join(c.Scopes, " ")
	}
	return claims
}

// sign signs claims with an ID of their own.
func (c *Client) sign(claims map[string]any) (string, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return "", provider.Errorf(provider.Unavailable, "no random ID can be made for the assertion: %s", err)
	}
	claims["jti"] = id
	return c.Signer.Sign(claims)
}

func merge(a, b url.Values) url.Values {
	maps.Copy(a, b)
	return a
}

func readCloser(body []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(body)) }
