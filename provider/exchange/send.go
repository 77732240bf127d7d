package exchange

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// values returns the values of placeholders for an exchange with a refresh token.
func (c *Client) values(refresh string) Values {
	values := maps.Clone(c.Values)
	if values == nil {
		values = Values{}
	}
	values["scope"] = c.Scopes
	values["refresh_token"] = refresh
	setIfEmpty(values, "client_id", c.ID)
	return values
}

func setIfEmpty(values Values, name, value string) {
	if values[name] == nil {
		values[name] = value
	}
}

// runSteps sends the requests before the token request, and adds what is kept of their answers to the
// values.
func (c *Client) runSteps(ctx context.Context, values Values) error {
	for _, step := range c.Before {
		reply, err := c.send(ctx, c.Server.tokenField(), step.URL, step.Request, None, values)
		if err != nil {
			return err
		}
		body, failure := decode(reply)
		if failure != nil {
			return failure
		}
		for name, pointer := range step.Keep {
			kept := shown(provider.Member(body, pointer))
			if kept == "" {
				return reply.NoMember(pointer)
			}
			values[name] = kept
		}
	}
	return nil
}

// send sends a request to an endpoint, which a field gives, authenticated as the client. No error
// quotes a secret in it.
func (c *Client) send(ctx context.Context, field, endpoint string, r Request, style string, values Values) (*provider.Reply, error) {
	to, err := url.Parse(endpoint)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "%s: not a valid URL for a request", field)
	}
	// The times in an assertion must not be old when it is sent.
	return c.HTTP.DoFresh(ctx, to, func() (*http.Request, []string, error) {
		return c.build(ctx, field, endpoint, r, style, values)
	})
}

// build returns the request that send sends, and the secrets in it.
func (c *Client) build(ctx context.Context, field, endpoint string, r Request, style string, values Values) (*http.Request, []string, error) {
	id, err := randomID()
	if err != nil {
		return nil, nil, err
	}
	values = dynamic(values, c.issueTime(endpoint).Add(assertionAge), c.DefaultTTL, id)
	values["token_url"] = endpoint
	secrets := []string{c.Secret, textOf(values["refresh_token"], nil), textOf(values["token"], nil)}
	for _, step := range c.Before {
		for name := range step.Keep {
			secrets = append(secrets, textOf(values[name], nil))
		}
	}
	if usesAssertion(r.Names()) {
		assertion, err := c.sign(c.Assertion, endpoint, values)
		if err != nil {
			return nil, nil, err
		}
		values["assertion"] = assertion
		secrets = append(secrets, assertion)
	}
	if style == IdentityToken || slices.Contains(r.Names(), IdentityToken) {
		token, err := c.Identity.token(ctx)
		if err != nil {
			return nil, nil, err
		}
		values[IdentityToken] = token
		secrets = append(secrets, token)
	}
	auth, err := c.authenticate(style, endpoint, values)
	if err != nil {
		return nil, nil, err
	}
	req, err := r.build(ctx, field, endpoint, values, auth)
	if err != nil {
		return nil, nil, err
	}
	secrets = append(secrets, auth.params.Get("client_assertion"), credentials(req))
	return req, secrets, nil
}

// credentials returns what follows the scheme in the Authorization header of a request.
func credentials(req *http.Request) string {
	_, credentials, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return credentials
}
