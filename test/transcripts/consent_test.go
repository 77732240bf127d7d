package transcripts

import (
	"cmp"
	"encoding/json"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// consentRequest is the request of the transcripts. The digest of the verifier is that of RFC 7636,
// appendix B.
var consentRequest = provider.ConsentRequest{
	State: "STATE", RedirectURI: "https://vault.example.com/v1/api/callback",
	CodeVerifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", Nonce: "NONCE",
}

const codeChallenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

// checkConsent compares the URL of a person's consent, and the exchange of its code, with the documentation.
func (s *transcript) checkConsent(credential provider.Credential) {
	consent := provider.ConsentOf(credential)
	if consent == nil {
		assert.Empty(s.T, s.parts["consent-url"], "the definition has no authorization")
		return
	}
	if !assert.NotEmpty(s.T, s.parts["consent-url"], "the definition has an authorization, so the transcript has a part consent-url") {
		return
	}
	s.checkDevice()
	to, err := consent.URL(s.Context(), consentRequest)
	require.NoError(s.T, err)
	assert.Equal(s.T, strings.ReplaceAll(s.parts["consent-url"], "<challenge>", codeChallenge), to)

	answer := cmp.Or(s.parts["code-answer"], s.parts["answer"])
	again := provider.ConsentOf(s.open(step{s.parts["code-request"], answer}))
	redeemed, _, err := again.Redeem(s.Context(), consentRequest, "CODE", "")
	require.NoError(s.T, err)
	assert.NotEmpty(s.T, redeemed.RefreshToken)
}

// checkDevice compares the request for a device code, and the exchange of the code, with the documentation.
func (s *transcript) checkDevice() {
	if !s.hasDeviceURL() {
		assert.Empty(s.T, s.parts["device-request"], "the definition has no device_url")
		return
	}
	if !assert.NotEmpty(s.T, s.parts["device-request"], "the definition has a device_url, so the transcript has a part device-request") {
		return
	}
	answer := cmp.Or(s.parts["device-token-answer"], s.parts["code-answer"], s.parts["answer"])
	consent := provider.ConsentOf(s.open(step{s.parts["device-request"], s.parts["device-answer"]}, step{s.parts["device-token-request"], answer}))
	device, err := consent.BeginDevice(s.Context())
	require.NoError(s.T, err)
	redeemed, _, err := consent.RedeemDevice(s.Context(), device.DeviceCode)
	require.NoError(s.T, err)
	assert.NotEmpty(s.T, redeemed.RefreshToken)
}

// hasDeviceURL reports whether the definition has a device_url.
func (s *transcript) hasDeviceURL() bool {
	var d struct {
		Authorization struct {
			URL string `json:"device_url"`
		} `json:"authorization"`
	}
	require.NoError(s.T, json.Unmarshal(s.p.Text(), &d))
	return d.Authorization.URL != ""
}
