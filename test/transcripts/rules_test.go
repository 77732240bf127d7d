package transcripts

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// rules are what a vendor documents of its tokens besides what its answers state. The zero value of each
// is that of OAuth 2.0.
type rules struct {
	// DefaultTTL is the lifetime of tokens whose answer states none. The token's lifetime shows it if the
	// transcript's answer states none.
	DefaultTTL string `json:"default_ttl,omitempty"`

	// Single is whether an exchange ends the previous token.
	Single bool `json:"single,omitempty"`

	// RenewableInLast is the end of the lifetime in which the vendor issues the next token. 0s stands for a
	// vendor that returns the same token until it expires.
	RenewableInLast string `json:"renewable_in_last,omitempty"`

	// RefreshTokenIdle is how long a refresh token stays valid without use, and RefreshTokenLifetime how
	// long it does so whatever is done.
	RefreshTokenIdle     string `json:"refresh_token_idle,omitempty"`
	RefreshTokenLifetime string `json:"refresh_token_lifetime,omitempty"`
}

// checkRules compares the rules that the engine applies with those that the vendor documents.
func (s *transcript) checkRules(credential provider.Credential, answer provider.Answer, token *provider.Token) {
	var expected rules
	if text := s.parts["rules"]; text != "" {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		require.NoError(s.T, decoder.Decode(&expected))
	}
	applied := rules{
		Single:           token.InvalidatesPrevious,
		RefreshTokenIdle: inDays(credential.MaxIdle()),
	}
	if limited, is := credential.(provider.Limited); is {
		applied.RefreshTokenLifetime = inDays(limited.MaxAge())
	}
	if !token.RenewableFrom.IsZero() && !token.InvalidatesPrevious {
		applied.RenewableInLast = token.ExpireTime.Sub(token.RenewableFrom).Round(time.Second).String()
	}
	if token.Stated {
		answer.ExpiresIn, answer.ExpiresAt = 0, time.Time{}
		if unstated, err := answer.Token(provider.TTL{}, provider.Token{}); err == nil {
			applied.DefaultTTL = unstated.ExpireTime.Sub(unstated.IssueTime).Round(time.Second).String()
		}
	}
	assert.Equal(s.T, expected, applied, "the rules of the vendor (part rules)")
}

// inDays formats a duration in days; "" for zero.
func inDays(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%gd", d.Hours()/24)
}

// checkRevocation checks the request that revokes the token of the transcript.
func (s *transcript) checkRevocation(credential provider.Credential, accessToken string, grant *provider.Grant) {
	request, last := s.parts["revoke-request"], provider.Grant{}
	if grant != nil {
		last = *grant
	}
	if err := credential.(provider.Revoker).Revocable(s.Context()); err != nil {
		assert.Empty(s.T, request, "the definition has no revocation: %s", err)
		return
	}
	if !assert.NotEmpty(s.T, request, "the definition has a revocation, so the transcript has a part revoke-request") {
		return
	}
	if assertion := s.parts["revoke-assertion"]; assertion != "" {
		s = &transcript{s.T, s.p, s.grant, maps.Clone(s.parts)}
		s.parts["assertion"] = assertion
	}
	revoker := s.open(step{request, cmp.Or(s.parts["revoke-answer"], "200")}).(provider.Revoker)
	require.NoError(s.T, revoker.Revoke(s.Context(), accessToken, last))
}

// hasOwnErrors reports whether a definition says where errors are, or which of them are transient, in the answers
// to the requests of the grant.
func (s *transcript) hasOwnErrors() bool {
	answers := []*definition.Answer{s.p.Answer}
	for _, grant := range s.p.Grants {
		if grant.GrantType == s.grant {
			answers = append(answers, grant.Answer, grant.RefreshAnswer)
		}
	}
	isAsked := len(s.steps()) > 0
	return isAsked && len(s.p.TransientErrors) > 0 || slices.ContainsFunc(answers, func(answer *definition.Answer) bool {
		return answer != nil && answer.Error+answer.OK != ""
	})
}
