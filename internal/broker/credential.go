package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Credential is a stored credential, ready for an exchange.
type Credential struct {
	Name string

	// Path is the credential's path, such as config/kensho/prod.
	Path       string
	VendorName string

	// Generation identifies this write of the credential.
	Generation string

	// WriteTime is when the operator last wrote one of the secrets.
	WriteTime time.Time

	// Expires is when the secret expires at the vendor, according to the operator or to the
	// vendor's rule; zero if unknown.
	// Description is the operator's, too.
	Expires     time.Time
	Description string

	// TTL holds the operator's limits for the lifetime of a token.
	TTL provider.TTL

	// Keepalive is the longest time without an exchange for a credential that expires from disuse;
	// zero if there is no limit.
	Keepalive time.Duration

	// Secrets are the secrets that the operator stored.
	Secrets []string

	// Vendor performs the exchange.
	Vendor provider.Credential

	// HTTP sends the requests to the vendor, and to the issuer of a caller's token.
	HTTP *provider.Client

	// Scope is the credential's own scope in the form of provider.JoinScope; "" if only the vendor
	// knows it.
	Scope string

	// API is how the vendor's API takes a token.
	API *provider.API // nil for the usual way

	// SentTo lists the destinations of its secrets in a form that can be compared.
	SentTo []string

	// Client is the name of the OAuth client that the credential shares with others, Version what of it
	// the credential uses, and Former what to try if the vendor refuses that. Client is "" if the
	// credential shares none, and Former nil if there is nothing to go back to.
	Client  string
	Version ClientVersion
	Former  *Former

	// Verified is the state after the exchange that verified the credential before it was stored;
	// nil if there was none.
	Verified *State
}

// narrowed returns the credential limited to a scope.
func (c *Credential) narrowed(scope string) (provider.Credential, error) {
	if scope == ownScope {
		return c.Vendor, nil
	}
	return c.Vendor.Narrow(strings.Fields(scope))
}

// secrets returns all secrets that an exchange may use: the operator's, and the rotated refresh
// tokens.
func (c *Credential) secrets(s *State) []string {
	all := slices.Clone(c.Secrets)
	if s == nil {
		return all
	}
	all = append(all, s.Grant.RefreshToken)
	for _, scope := range slices.Sorted(maps.Keys(s.Grants)) {
		all = append(all, s.Grants[scope].RefreshToken)
	}
	return all
}

// secretsAndTokens returns the secrets of a credential, and the access tokens that its vendor may
// still accept.
func (c *Credential) secretsAndTokens(s *State) []string {
	all := c.secrets(s)
	if s == nil {
		return all
	}
	accepted := s.acceptedTokens()
	for _, scope := range slices.Sorted(maps.Keys(accepted)) {
		for _, token := range accepted[scope] {
			all = append(all, token.AccessToken)
		}
	}
	return all
}

// redacting returns a context in which a vendor's error quotes no secret and no token of the
// credential. A vendor's response may contain any of them, whether the request did or not.
// (Guarantee 6.)
func redacting(ctx context.Context, c *Credential, s *State) context.Context {
	if c == nil {
		return ctx
	}
	return provider.WithSecrets(ctx, c.secretsAndTokens(s)...)
}
