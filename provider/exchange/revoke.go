package exchange

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Revocable returns nil if the vendor has a revocation endpoint. It may read the issuer's
// metadata to find out.
func (c *Client) Revocable(ctx context.Context) error {
	if c.IsSelfSigned {
		return provider.Errorf(provider.Invalid, "no vendor revokes a token that the engine signs itself")
	}
	endpoints, err := c.resolveEndpoints(ctx, provider.Grant{})
	if err != nil {
		return err
	}
	if endpoints.Revocation == "" {
		return provider.Errorf(provider.Invalid, "the vendor's revocation endpoint is unknown; set revocation_url if there is one")
	}
	return nil
}

// Independent returns an error if an exchange invalidates the previous token, or if the grant
// is a refresh token, which the vendor may revoke together with an access token (RFC 7009
// §2.1).
func (c *Client) Independent() error {
	switch {
	case c.InvalidatesPrevious:
		return provider.Errorf(provider.Invalid, "an exchange invalidates the previous token, so readers cannot have tokens of their own")
	case c.Refresh != "" || c.Authorization != nil:
		return provider.Errorf(provider.Invalid, "the vendor may revoke the refresh token together with an access token")
	}
	return nil
}

// Revoke revokes an access token (RFC 7009). A token that the vendor does not know is not an
// error.
func (c *Client) Revoke(ctx context.Context, accessToken string, last provider.Grant) error {
	if err := c.Revocable(ctx); err != nil {
		return err
	}
	endpoints, err := c.resolveEndpoints(ctx, last)
	if err != nil {
		return err
	}
	ctx = provider.WithSecrets(ctx, c.Secrets...)
	first, second := c.authStyles(last, endpoints.revocationMethods)
	if c.RevocationAuth != "" {
		first, second = c.RevocationAuth, ""
	}
	ahead := c.vendorAhead(endpoints.Revocation)
	err = c.revoke(ctx, endpoints.Revocation, accessToken, first)
	switch {
	case isAboutStyle(err) && c.isMisdated(endpoints.Revocation, ahead):
		err = c.revoke(ctx, endpoints.Revocation, accessToken, first)
	case second != "" && isAboutStyle(err):
		if again := c.revoke(ctx, endpoints.Revocation, accessToken, second); again == nil || !isAboutStyle(again) {
			err = again
		}
	}
	err = c.withSkew(err)
	var refusal *provider.Error
	switch {
	case !errors.As(err, &refusal):
	case refusal.Code == "invalid_token": // RFC 7009 §2.2 asks for status 200 here
		return nil
	case refusal.Status == http.StatusUnauthorized && c.revokesByTokenOnly():
		return nil
	}
	return provider.CheckField(err, c.Server.revocationField())
}

// revokesByTokenOnly reports whether the token to revoke authenticates the request, as at GitHub. Status
// 401 then says that the vendor does not accept the token any more.
func (c *Client) revokesByTokenOnly() bool {
	if c.Revocation == nil || cmp.Or(c.RevocationAuth, c.AuthStyle) != None {
		return false
	}
	sendsToken := false
	for _, header := range c.Revocation.Headers {
		sendsToken = sendsToken || slices.Contains(header.Names(), "token")
	}
	return sendsToken && !slices.ContainsFunc(c.Revocation.Names(), func(name string) bool {
		return slices.Contains(c.Secrets, textOf(c.Values[name], nil))
	})
}

func (c *Client) revoke(ctx context.Context, endpoint, accessToken, style string) error {
	request := rfc7009
	if c.Revocation != nil {
		request = *c.Revocation
	}
	values := c.values(c.Refresh)
	values["token"] = accessToken
	reply, err := c.send(ctx, c.Server.revocationField(), endpoint, request, style, values)
	switch {
	case err != nil:
		return err
	case reply.HasError(): // some vendors send errors with status 200
		return reply.Refusal()
	}
	return nil
}

// rfc7009 is the request that revokes a token.
var rfc7009 = Request{Form: map[string]Template{"token": mustParse("{token}"), "token_type_hint": Literal("access_token")}}
