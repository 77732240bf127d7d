package exchange

import (
	"cmp"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"vault-plugin-secrets-tokenbroker/provider"
)

// An Assertion describes a signed JWT.
type Assertion struct {
	// Headers are the header's members in addition to alg, typ and kid.
	Headers map[string]Template

	// Claims are the claims in addition to iat, exp and jti. In them, token_url stands for the URL of the
	// request, and iat for the time of issue in Unix seconds.
	Claims Tree

	// Lifetime is the time from iat to exp; zero for the default.
	Lifetime time.Duration

	// OmitsID leaves out jti, and OmitsExpiry exp.
	OmitsID, OmitsExpiry bool
}

// NewClaims returns the tree of claims that are templates.
func NewClaims(claims map[string]any) Tree { return Tree{claims} }

func mustParse(text string) Template {
	t, err := ParseTemplate(text)
	if err != nil {
		panic(err)
	}
	return t
}

// sign returns a JWT for a request to an endpoint.
func (c *Client) sign(a Assertion, endpoint string, values Values) (string, error) {
	issued := c.issueTime(endpoint)
	values = maps.Clone(values)
	values["token_url"], values["iat"] = endpoint, issued.Unix()
	filled, err := a.Claims.fill(values)
	if err != nil {
		return "", err
	}
	claims, _ := filled.(map[string]any)
	claims["iat"] = issued.Unix()
	if !a.OmitsExpiry {
		claims["exp"] = issued.Add(a.lifetime()).Unix()
	}
	if !a.OmitsID {
		id, err := randomID()
		if err != nil {
			return "", err
		}
		claims["jti"] = id
	}
	headers := map[string]string{}
	for name, template := range a.Headers {
		text, isSet, err := template.fill(values, verbatim)
		if err != nil {
			return "", err
		}
		if isSet {
			headers[name] = text
		}
	}
	return c.Signer.Sign(claims, headers)
}

// lifetime returns the time from iat to exp.
func (a Assertion) lifetime() time.Duration { return cmp.Or(a.Lifetime, assertionLifetime) }

// SignedLifetime implements provider.Signing. Without an exp, the vendor counts the lifetime that it
// documents from iat.
func (c *Client) SignedLifetime() time.Duration {
	if c.Signer == nil {
		return 0
	}
	var longest time.Duration
	for _, a := range c.assertions() {
		longest = max(longest, a.lifetime())
	}
	if c.IsSelfSigned {
		longest = max(longest, c.DefaultTTL)
	}
	return longest
}

func randomID() (string, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return "", provider.Errorf(provider.Unavailable, "cannot generate a random ID: %s", err)
	}
	return id, nil
}

// has reports whether there is a claim with a name, set or not.
func (a Assertion) has(name string) bool {
	object, _ := a.Claims.value.(map[string]any)
	_, has := object[name]
	return has
}

// claim returns the texts of a claim: one, or those of a list. One that depends on a value that is not set
// is empty.
func (a Assertion) claim(name string, values Values) []string {
	object, _ := a.Claims.value.(map[string]any)
	filled, isSet, err := fillTree(object[name], values)
	switch {
	case err != nil:
		return nil
	case !isSet:
		return []string{""}
	}
	switch claim := filled.(type) {
	case string:
		return []string{claim}
	case []string:
		return claim
	case []any:
		var texts []string
		for _, one := range claim {
			if text, isText := one.(string); isText {
				texts = append(texts, text)
			}
		}
		return texts
	}
	return nil
}

// usesAssertion reports whether a request has a placeholder of the assertion.
func usesAssertion(names []string) bool {
	for _, name := range names {
		if name == "assertion" || strings.HasPrefix(name, "assertion|") {
			return true
		}
	}
	return false
}

// signToken returns an assertion as a token.
func (c *Client) signToken() (*provider.Answer, error) {
	now := time.Now()
	token, err := c.sign(c.Assertion, "", c.values(""))
	if err != nil {
		return nil, err
	}
	return &provider.Answer{
		AccessToken: token, Scope: c.Scopes, DefaultTTL: c.DefaultTTL, RenewalWindow: c.RenewalWindow,
		Clock: provider.Clock{Sent: now, Received: now},
	}, nil
}
