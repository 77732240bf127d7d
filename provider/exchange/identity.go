package exchange

import (
	"context"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// IdentityToken is the style of client authentication by a token of another issuer (RFC 7523 §2.2, RFC 7521
// §4.2): the identity token of the server. It is also the name of the token's placeholder.
const IdentityToken = "identity_token"

// An Identity describes the identity token that requests have: as {identity_token}, or as the client's
// assertion (IdentityToken).
type Identity struct {
	Audience string
	TTL      time.Duration // zero for the server's default

	// Request requests a token; nil if there is no server.
	Request provider.IdentityTokenFunc
}

// token returns a new identity token.
func (i Identity) token(ctx context.Context) (string, error) {
	if i.Request == nil {
		return "", provider.Errorf(provider.Invalid, "identity_token_audience: there is no server that issues identity tokens")
	}
	return i.Request(ctx, i.Audience, i.TTL)
}

// sendsIdentity reports whether a request has an identity token.
func (c *Client) sendsIdentity() bool {
	return c.AuthStyle == IdentityToken || c.Revocation != nil && c.RevocationAuth == IdentityToken || slices.Contains(c.names(), IdentityToken)
}
