package transcripts

import (
	"encoding/json"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// checkDelegation compares the exchange of a caller's token with the documentation.
func (s *transcript) checkDelegation() {
	credential := s.open(step{s.parts["delegate-request"], s.parts["delegate-answer"]})
	delegation := provider.DelegationOf(credential)
	if delegation == nil {
		assert.Empty(s.T, s.parts["delegate"], "the grant has no delegation")
		return
	}
	if !assert.NotEmpty(s.T, s.parts["delegate"], "the grant has a delegation, so the transcript has a part delegate") {
		return
	}
	var caller struct {
		SubjectToken       string   `json:"subject_token"`
		SubjectTokenType   string   `json:"subject_token_type"`
		RequestedTokenType string   `json:"requested_token_type"`
		Audience           []string `json:"audience"`
		Scope              []string `json:"scope"`
	}
	require.NoError(s.T, json.Unmarshal([]byte(s.parts["delegate"]), &caller))
	request, err := provider.DelegateRequest{
		SubjectToken: caller.SubjectToken, SubjectTokenType: caller.SubjectTokenType, RequestedTokenType: caller.RequestedTokenType,
		Audience: caller.Audience, Scope: caller.Scope,
	}.Check()
	require.NoError(s.T, err)
	answer, err := delegation.Delegate(s.Context(), request, provider.Grant{})
	require.NoError(s.T, err)
	s.checkToken("delegate-token", credential, answer)
}
