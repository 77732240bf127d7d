package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Credential is what an operator stored, ready to be exchanged.
type Credential struct {
	Name string

	// Path is the path of the credential, such as config/kensho/prod. VendorName is the name of its
	// vendor.
	Path       string
	VendorName string

	// Generation identifies this write of the credential.
	Generation string

	// WriteTime is when the operator last wrote one of its secrets.
	WriteTime time.Time

	// Expires is the date that the operator gave for the expiry of the secret at the vendor;
	// zero if none. Description is the operator's, too.
	Expires     time.Time
	Description string

	// TTL holds the operator's limits for the lifetime of its tokens.
	TTL provider.TTL

	// Keepalive is how often to exchange a credential that expires of disuse even though
	// nothing reads it; zero is never.
	Keepalive time.Duration

	// Secrets are the ones that the operator stored.
	Secrets []string

	// Vendor does the exchange.
	Vendor provider.Credential

	// Scope is the credential's own, as provider.JoinScope has it; "" if only the vendor
	// knows it.
	Scope string

	// SentTo are the places that its secrets are sent to, in a form that can be compared.
	SentTo []string

	// Verified is the result of the exchange that verified the credential before it was
	// stored; nil if there was none.
	Verified *State
}

// narrowed returns what exchanges the credential for a scope.
func (c *Credential) narrowed(scope string) (provider.Credential, error) {
	if scope == ownScope {
		return c.Vendor, nil
	}
	return c.Vendor.Narrow(strings.Fields(scope))
}

// secrets returns all secrets that an exchange may be made with: the operator's, and the refresh
// tokens that the vendor gave in their place.
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

// secretsAndTokens returns the secrets of a credential and the access tokens that its vendor may
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

// redacting returns a context in which no error of a vendor quotes a secret or a token of the
// credential. A vendor's response may hold any of them, whether the request had it or not.
// (Guarantee 6.)
func redacting(ctx context.Context, c *Credential, s *State) context.Context {
	if c == nil {
		return ctx
	}
	return provider.WithSecrets(ctx, c.secretsAndTokens(s)...)
}
