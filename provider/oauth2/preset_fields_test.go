package oauth2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

func preset(t *testing.T, name string) Preset {
	t.Helper()
	p, err := PresetNamed(name)
	require.NoError(t, err)
	return p
}

func TestAPresetFillsInItsFields(t *testing.T) {
	for name, row := range map[string]struct {
		params map[string]string
		fields config
	}{
		"okta": {map[string]string{"domain": "acme", "server": "aus9o8x7"}, config{
			GrantType:     "client_credentials",
			TokenURL:      "https://acme.okta.com/oauth2/aus9o8x7/v1/token",
			RevocationURL: "https://acme.okta.com/oauth2/aus9o8x7/v1/revoke",
			IdleExpiry:    provider.Seconds(7 * 24 * 3600),
		}},
		"zoom": {map[string]string{"account_id": "Wk9PTV9BQ0NPVU5U"}, config{
			GrantType:   "account_credentials",
			AuthStyle:   "client_secret_basic",
			TokenURL:    "https://zoom.us/oauth/token",
			TokenParams: map[string]string{"account_id": "Wk9PTV9BQ0NPVU5U"},
		}},
		"docusign": {nil, config{
			GrantType:         "jwt_bearer",
			TokenURL:          "https://account.docusign.com/oauth/token",
			AssertionAudience: "account.docusign.com",
			Scope:             []string{"signature", "impersonation"},
			ScopeInAssertion:  true,
		}},
		"salesforce": {map[string]string{"domain": "acme--dev.sandbox", "login": "test"}, config{
			GrantType:         "jwt_bearer",
			TokenURL:          "https://acme--dev.sandbox.my.salesforce.com/services/oauth2/token",
			AssertionAudience: "https://test.salesforce.com",
			DefaultTTL:        provider.Seconds(2 * 3600),
		}},
	} {
		filled, err := preset(t, name).Filled(row.params)
		require.NoError(t, err, name)
		assert.Equal(t, row.fields, filled.fields(), name)
	}
}

func TestFilledInFieldsDoNotShareTheTable(t *testing.T) {
	filled, err := preset(t, "entra").Filled(map[string]string{"tenant": "acme.example"})
	require.NoError(t, err)
	filled.fields().Scope[0] = "changed"
	assert.NotContains(t, preset(t, "entra").Scope, "changed")

	filled, err = preset(t, "zoom").Filled(map[string]string{"account_id": "a"})
	require.NoError(t, err)
	filled.fields().TokenParams["account_id"] = "changed"
	assert.Equal(t, "{account_id}", preset(t, "zoom").TokenParams["account_id"])
}

func TestParamsThatAreMissingMalformedOrUnknownAreRefused(t *testing.T) {
	for _, row := range []struct {
		preset string
		params map[string]string
		says   string
	}{
		{"auth0", nil, "preset_params: the preset auth0 needs domain: the part of the tenant's domain before .auth0.com"},
		{"zoom", nil, "preset_params: the preset zoom needs account_id"},
		{"auth0", map[string]string{"domain": "evil.example/"}, `preset_params: invalid domain "evil.example/" for the preset auth0; give the part of the tenant's domain before .auth0.com`},
		{"auth0", map[string]string{"domain": ""}, `preset_params: invalid domain ""`},
		{"paypal", map[string]string{"host": "evil"}, `preset_params: invalid host "evil" for the preset paypal; give api-m, or`},
		{"okta", map[string]string{"domain": "acme", "tenant": "acme"}, "preset_params: unknown parameter tenant of the preset okta (allowed: domain, server)"},
		{"slack", map[string]string{"domain": "acme"}, "preset_params: unknown parameter domain of the preset slack (allowed: none)"},
	} {
		_, err := preset(t, row.preset).Filled(row.params)
		assertInvalid(t, err, row.says)
	}
}

func expanded(t *testing.T, own string) config {
	t.Helper()
	_, fields, err := expand(json.RawMessage(own))
	require.NoError(t, err)
	return fields
}

func TestWithoutAPresetFieldsStayAsTheyAre(t *testing.T) {
	own, fields, err := expand(json.RawMessage(`{"token_url": "https://id.example/token"}`))
	require.NoError(t, err)
	assert.Equal(t, config{TokenURL: "https://id.example/token"}, fields)
	assert.Equal(t, fields, own)
}

func TestTheOperatorsFieldsTakePrecedence(t *testing.T) {
	fields := expanded(t, `{"preset": "box", "preset_params": {"enterprise_id": "17"}, "auth_style": "client_secret_basic",
		"token_params": {"box_subject_type": "user", "b": "c"}, "default_ttl": 60}`)
	assert.Equal(t, "client_secret_basic", fields.AuthStyle)
	assert.Equal(t, map[string]string{"box_subject_type": "user", "box_subject_id": "17", "b": "c"}, fields.TokenParams)
	assert.EqualValues(t, 60, fields.DefaultTTL)
	assert.Equal(t, "https://api.box.com/oauth2/token", fields.TokenURL)

	fields = expanded(t, `{"preset": "entra", "preset_params": {"tenant": "t"}, "scope": ["api://a/.default"], "token_params": {"b": "c"}}`)
	assert.Equal(t, []string{"api://a/.default"}, fields.Scope)
	assert.Equal(t, map[string]string{"b": "c"}, fields.TokenParams)
}

func TestTokensOfAnotherServerAreNotSentToTheVendor(t *testing.T) {
	for _, own := range []string{`"token_url": "https://git.acme.example/oauth/token"`, `"issuer": "https://git.acme.example"`} {
		fields := expanded(t, `{"preset": "gitlab", "refresh_token": "r", `+own+`}`)
		assert.Empty(t, fields.RevocationURL)
		assert.NotEqual(t, "https://gitlab.com/oauth/token", fields.TokenURL)
		assert.True(t, fields.SingleToken)
	}
	// Parameters that only the vendor's URLs need are not required.
	fields := expanded(t, `{"preset": "okta", "token_url": "https://id.acme.example/oauth2/default/v1/token", "revocation_url": "https://id.acme.example/revoke"}`)
	assert.Equal(t, "https://id.acme.example/revoke", fields.RevocationURL)
}

func TestTheGrantFollowsFromTheFields(t *testing.T) {
	for own, grant := range map[string]string{
		`{"preset": "xero"}`:                       "client_credentials",
		`{"preset": "xero", "refresh_token": "r"}`: "refresh_token",
		`{"preset": "xero", "refresh_token": "r", "grant_type": "client_credentials"}`:                          "client_credentials",
		`{"preset": "salesforce", "preset_params": {"domain": "a"}, "assertion_subject": "s"}`:                  "jwt_bearer",
		`{"preset": "salesforce", "preset_params": {"domain": "a"}, "grant_type": "client_credentials"}`:        "client_credentials",
		`{"preset": "google", "private_key": "k"}`:                                                              "jwt_bearer",
		`{"preset": "zoom", "preset_params": {"account_id": "a"}, "client_id": "c", "token_params": {"a":"b"}}`: "account_credentials",
	} {
		assert.Equal(t, grant, expanded(t, own).GrantType, own)
	}
}

func TestAPresetAddsOnlyFieldsThatApplyToTheGrant(t *testing.T) {
	assert.Empty(t, expanded(t, `{"preset": "xero"}`).IdleExpiry)
	assert.NotEmpty(t, expanded(t, `{"preset": "xero", "refresh_token": "r"}`).IdleExpiry)

	const auth0 = `{"preset": "auth0", "preset_params": {"domain": "acme"}`
	assert.Empty(t, expanded(t, auth0+`, "client_secret": "s"}`).AssertionAudience)
	assert.NotEmpty(t, expanded(t, auth0+`, "private_key": "k"}`).AssertionAudience)
}

func TestContradictionsWithAPresetAreRefused(t *testing.T) {
	for own, says := range map[string]string{
		`{"preset": "acme"}`:                                    `preset: unknown preset "acme" (allowed: auth0, `,
		`{"preset_params": {"domain": "a"}}`:                    "preset_params: applies only with a preset",
		`{"preset": "slack", "grant_type": "jwt_bearer"}`:       "grant_type: the preset slack supports only refresh_token;",
		`{"preset": "docusign", "private_key": "k"}`:            "assertion_subject: must be set to the user to act for, as the preset docusign needs it",
		`{"preset": "auth0", "client_secret": "very secret"}`:   "preset_params: the preset auth0 needs domain",
		`{"preset": "auth0", "preset_params": ["domain=acme"]}`: "cannot read the stored fields",
	} {
		_, _, err := expand(json.RawMessage(own))
		assertInvalid(t, err, says)
	}
}

func assertInvalid(t *testing.T, err error, says string) {
	t.Helper()
	var e *provider.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, provider.Invalid, e.Kind)
	assert.Contains(t, e.Reason, says)
}

func somePrivateKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
