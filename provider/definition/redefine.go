package definition

import (
	"maps"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// ShowsRefreshTokenOf reports whether readers would see what an earlier definition takes for a refresh token.
func (p *Provider) ShowsRefreshTokenOf(earlier *Provider) bool {
	var refreshTokens []string
	for _, r := range earlier.readings() {
		refreshTokens = append(refreshTokens, r.RefreshToken)
	}
	return slices.ContainsFunc(p.readings(), func(r *exchange.Reading) bool {
		shown := append(slices.Collect(maps.Values(r.Extra)), r.Token, r.Scope, r.TokenType)
		return slices.ContainsFunc(shown, func(pointer string) bool { return pointer != "" && slices.Contains(refreshTokens, pointer) })
	})
}

func (p *Provider) readings() []*exchange.Reading {
	var all []*exchange.Reading
	for _, g := range p.compiled {
		all = append(all, &g.reading)
		if g.refreshReading != nil {
			all = append(all, g.refreshReading)
		}
		if g.delegated != nil {
			all = append(all, &g.delegated.reading)
		}
	}
	return all
}
