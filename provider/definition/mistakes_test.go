package definition_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

func opened(t *testing.T, answer string, status int, fields object, changes ...change) (provider.Credential, error) {
	t.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: vendorsim.Transport(vendorsim.Answer(status, answer))})
	require.NoError(t, err)
	return parsed(t, changes...).Open(provider.Settings{Fields: raw, Client: client})
}

func TestTheSeparatorOfScopesAlsoSeparatesThoseThatAreGranted(t *testing.T) {
	separated := []change{{"/fields/scope", object{}}, {"/scope", object{"separator": ";"}}, {"/grants/0/request/form/scope", "{scope}"}}
	fields := object{"account": "acme", "client_id": "id", "client_secret": "secret"}
	c, err := opened(t, `{"access_token":"at-0123456789","expires_in":60,"scope":"read;write"}`, http.StatusOK, with(fields, "scope", []string{"read", "write"}), separated...)
	require.NoError(t, err)
	answer, err := c.Exchange(t.Context(), provider.Grant{})
	require.NoError(t, err)
	assert.Equal(t, []string{"read", "write"}, answer.Scope)

	_, err = opened(t, "", http.StatusOK, with(fields, "scope", []string{"read;write"}), separated...)
	assert.EqualError(t, err, `scope: "read;write" are several scopes; separate them with commas here (the engine sends ";" between them)`)
}

func TestMistakesOfADefinitionAreErrors(t *testing.T) {
	fields := object{"account": "acme", "client_id": "a", "client_secret": "b"}
	_, err := opened(t, "", http.StatusOK, object{"account": "acme", "client_secret": "b"}, change{"/fields/client_id", nil}, change{"/auth", nil}, change{"/grants/0/basic", []any{"a:b", "{client_secret}"}})
	require.EqualError(t, err, "basic: contains a colon, which HTTP Basic cannot carry")

	_, err = opened(t, "", http.StatusOK, with(fields, "client_id", "a:b"), change{"/auth", "client_secret_basic_unencoded"})
	require.EqualError(t, err, "client_id: contains a colon, which HTTP Basic cannot carry")

	_, err = opened(t, "", http.StatusOK, with(fields, "part", ".."), change{"/fields/part", object{"description": "the part (x)"}}, change{"/token_url", "https://{account}.vendor.example/{part}/token"})
	require.EqualError(t, err, "part: is not a segment of a URL")

	for _, text := range []string{"null", `["abc"]`, "12345678", "true"} {
		credential, err := opened(t, text, http.StatusOK, fields, change{"/answer", object{"text": true}})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "contains no access token", text)
	}

	nested := strings.Repeat("(", 998) + "a" + strings.Repeat(")", 998)
	_, err = definition.Parse("acme", []byte(strings.Replace(base, "[a-z0-9-]+", nested, 1)))
	require.ErrorContains(t, err, "definition: /fields/account/pattern")
}

func TestAPreviewNeedsNoVendorOfAClientCertificate(t *testing.T) {
	d := parsed(t, change{"/auth", "tls_client_auth"}, change{"/fields/client_secret", nil}, change{"/fields/private_key", object{}}, change{"/fields/certificate", object{}})
	fields, err := json.Marshal(object{"account": "acme", "client_id": "a", "private_key": rsaKey(), "certificate": certificateOf(t, key())})
	require.NoError(t, err)
	preview, err := d.Preview(t.Context(), fields, "", 0)
	require.NoError(t, err)
	assert.Contains(t, preview.Requests[0], "client_id=a")
	assert.NotContains(t, preview.Requests[0], "PRIVATE KEY")
}

func TestANumberIsSentAsItIsWritten(t *testing.T) {
	d := parsedText(t, strings.NewReplacer(`"form"`, `"json"`, `"scope": "{scope}"`, `"scope": "{scope}", "id": 12345678901234567890`).Replace(base))
	preview, err := d.Preview(t.Context(), json.RawMessage(`{"account":"acme","client_id":"a","client_secret":"b"}`), "", 0)
	require.NoError(t, err)
	assert.Contains(t, preview.Requests[0], `"id":12345678901234567890`)
}

func TestAMissingFieldIsNamedWithTheOthersThatAreMissing(t *testing.T) {
	_, err := opened(t, "", http.StatusOK, object{})
	require.Error(t, err)
	for _, name := range []string{"account", "client_id", "client_secret"} {
		assert.Contains(t, err.Error(), name)
	}
}

func TestWhatTheVendorSaysWhereTheDefinitionLooksIsQuoted(t *testing.T) {
	fields := object{"account": "acme", "client_id": "id", "client_secret": "secret-0123456789"}
	for _, c := range []struct {
		status       int
		answer, says string
		reading      object
	}{
		{401, `{"problem":{"id":"bad_credentials"}}`, "401 Unauthorized: bad_credentials", object{"error": "/problem/id"}},
		{401, `{"problem":{"id":"E1"},"message":"no such key"}`, "401 Unauthorized: E1: no such key", object{"error": "/problem/id"}},
		{401, `{"error":"E1"}`, "401 Unauthorized: E1", object{"error": "/error"}},
		{401, `{"problem":{"id":"secret-0123456789"}}`, "401 Unauthorized", object{"error": "/problem/id"}},
		{200, `{"okk":true,"access_token":"at-0123456789"}`, "; /ok is not true", object{"ok": "/ok"}},
	} {
		credential, err := opened(t, c.answer, c.status, fields, change{"/answer", c.reading})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, c.says)
		assert.NotContains(t, err.Error(), "secret-0123")
	}
}
