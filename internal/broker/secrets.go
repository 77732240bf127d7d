package broker

import (
	"context"
	"maps"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Whatever of a credential is secret may come back in a vendor's answer, whether the request
// carried it or not: a vendor knows all that it was ever sent, and all that it has issued.

// secrets are what an exchange may be made with: the operator's own, and what the vendor gave
// in place of those.
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

// guard returns a context in which no error of the vendor's quotes a secret of a credential, or
// a token that is known of it.
func guard(ctx context.Context, c *Credential, s *State) context.Context {
	if c == nil {
		return ctx
	}
	return provider.WithSecrets(ctx, c.known(s)...)
}

// known returns the secrets of a credential and the access tokens that its vendor may still
// accept.
func (c *Credential) known(s *State) []string {
	all := c.secrets(s)
	if s == nil {
		return all
	}
	held := s.held()
	for _, scope := range slices.Sorted(maps.Keys(held)) {
		for _, token := range held[scope] {
			all = append(all, token.AccessToken)
		}
	}
	return all
}

func (m memory) guard(ctx context.Context) context.Context {
	return guard(ctx, m.credential, m.latest())
}
