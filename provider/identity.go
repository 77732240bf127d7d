package provider

import (
	"context"
	"time"
)

// An IdentityTokenFunc returns a new identity token that the server issues for the engine's mount: a JWT
// for an audience, which the vendor verifies by the server's public keys. With a ttl of zero, the
// server's default applies. Its errors are of type *Error: of kind Invalid if the server issues no such
// tokens, and of kind Unavailable otherwise.
type IdentityTokenFunc func(ctx context.Context, audience string, ttl time.Duration) (string, error)

// DefaultIdentityTTL is how long an identity token is valid by default, as in Vault's own engines.
const DefaultIdentityTTL = time.Hour

// CheckIdentityTTL returns an error for a ttl that no identity token can have. The server itself shortens one
// that is longer than its keys are valid.
func CheckIdentityTTL(ttl time.Duration) error {
	if ttl < time.Second {
		return Errorf(Invalid, "identity_token_ttl: must be at least 1s")
	}
	return nil
}
