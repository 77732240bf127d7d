package oauth2

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// entra has the fields of a credential of Entra ID, without a secret.
const entra = `{"preset": "entra", "preset_params": {"tenant": "acme.onmicrosoft.com"}, "client_id": "c"`

func openRaw(own string) (provider.Credential, error) {
	return Provider{}.Open(provider.Settings{Fields: json.RawMessage(own), Client: &provider.Client{}})
}

func TestWhatAPresetDoesNotSupportIsRefusedWithTheFix(t *testing.T) {
	for own, says := range map[string]string{
		entra + `, "private_key": "k"}`:                       "private_key: does not apply to the preset entra, which supports only a client_secret; set that instead",
		entra + `, "private_key": "k", "client_secret": "s"}`: "private_key: does not apply to the preset entra",
		entra + `}`: "client_secret: must be set, as the preset entra needs it",
		entra + `, "client_secret": "s", "scope": ["User.Read"]}`:                            `scope: invalid scope "User.Read" for the preset entra; give the identifier of one API followed by /.default, such as https://graph.microsoft.com/.default, and grant the permissions at the vendor`,
		entra + `, "client_secret": "s", "scope": ["https://graph.microsoft.com"]}`:          "scope: invalid scope",
		entra + `, "client_secret": "s", "scope": ["api://a/.default", "api://b/.default"]}`: "scope: the preset entra allows one scope, as a token is for one API; store a credential for each API",
		`{"preset": "salesforce", "preset_params": {"domain": "a"}, "client_id": "c"}`:       "assertion_subject: must be set to the user to act for, as the preset salesforce needs it; or set client_secret instead of a private_key",
		`{"preset": "docusign", "client_id": "c"}`:                                           "assertion_subject: must be set to the user to act for, as the preset docusign needs it",
	} {
		_, err := openRaw(own)
		assertInvalid(t, err, says)
	}
}

func TestWhatAPresetSupportsIsAccepted(t *testing.T) {
	for _, own := range []string{
		entra + `, "client_secret": "s"}`,
		entra + `, "client_secret": "s", "scope": ["api://billing/.default"]}`,
		entra + `, "client_secret": "s", "scope": ["a", "b"], "token_url": "https://id.acme.example/token"}`,
		entra + `, "client_secret": "s", "auth_style": "client_secret_basic"}`,
	} {
		_, err := openRaw(own)
		require.NoError(t, err, own)
	}
	_, err := openRaw(entra + `, "private_key": ` + quoted(t, somePrivateKey(t)) + `, "auth_style": "private_key_jwt"}`)
	require.NoError(t, err, "the operator's auth_style takes precedence")
}

func TestAScopeSuffixIsThatOfThePresetsOwnScope(t *testing.T) {
	eachPreset(t, func(t *testing.T, p Preset) {
		if p.ScopeSuffix == "" {
			return
		}
		require.Len(t, p.Scope, 1)
		require.NoError(t, p.checkScope(config{Scope: p.Scope}))
	})
	assert.NotEmpty(t, preset(t, "entra").ScopeSuffix)
}

func quoted(t *testing.T, text string) string {
	t.Helper()
	raw, err := json.Marshal(text)
	require.NoError(t, err)
	return string(raw)
}
