package definition_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

func previewed(t *testing.T, p *definition.Provider, fields object, answer string, status int) *definition.Preview {
	t.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	preview, err := p.Preview(t.Context(), raw, answer, status)
	require.NoError(t, err)
	return preview
}

func TestAPreviewShowsRequestsWithTheNamesOfSecrets(t *testing.T) {
	secrets := with(acme, "client_secret", "s3cr3t-0f-acme")
	signing := []change{
		{"/fields/client_secret", nil}, {"/fields/private_key", object{}}, {"/auth", "private_key_jwt"},
	}
	shared := []change{
		{"/fields/client_id", nil}, {"/fields/client_secret", nil}, {"/fields/scope", nil}, {"/fields/api_secret", object{"description": "x", "secret": true}},
		{"/auth", nil}, {"/assertion", object{"key": "api_secret", "algorithms": []string{"HS256"}, "claims": object{"iss": "{account}"}}},
		{"/grants/0/request", object{"headers": object{"X-Key": "{api_secret}"}, "json": object{"key": "{api_secret}", "jwt": "{assertion}"}}},
	}
	for name, test := range map[string]struct {
		changes []change
		fields  object
		want    []string
	}{
		"form":  {nil, secrets, []string{"POST https://acme.vendor.example/token\nAccept: application/json\nContent-Type: application/x-www-form-urlencoded\n\nclient_id=c\nclient_secret={client_secret}\ngrant_type=client_credentials"}},
		"Basic": {[]change{{"/auth", "client_secret_basic"}}, secrets, []string{"Authorization: Basic base64(c:{client_secret})"}},
		"query": {[]change{{"/auth", nil}, {"/grants/0/request", object{"method": "GET", "query": object{"id": "{client_id}", "key": "{client_secret}", "s": "{scope}"}}}}, secrets,
			[]string{"GET https://acme.vendor.example/token?id=c&key={client_secret}\nAccept: application/json"}},
		"empty secret": {threeGrants(), with(secrets, "refresh_token", "", "private_key", ""), []string{"client_secret={client_secret}\ngrant_type=client_credentials"}},
		"step":         {session(), secrets, []string{`{"id":"c","secret":"{client_secret}"}`, "X-Session: {session}"}},
		"JWT":          {signing, object{"account": "acme", "client_id": "c", "private_key": rsaKey()}, []string{`client_assertion=JWT({"alg":"RS256","typ":"JWT"}, {"aud":"https://acme.vendor.example/token",`}},
		"shared key":   {shared, object{"account": "acme", "api_secret": "s3cr3t-0f-acme\"x"}, []string{`X-Key: {api_secret}`}},
	} {
		t.Run(name, func(t *testing.T) {
			preview := previewed(t, parsed(t, test.changes...), test.fields, "", 200)
			require.Len(t, preview.Requests, len(test.want), "%q", preview.Requests)
			for i, want := range test.want {
				assert.Contains(t, preview.Requests[i], want)
			}
			assert.NotContains(t, strings.Join(preview.Requests, "\n"), "s3cr3t", "guarantee 6")
			assert.NotContains(t, strings.Join(preview.Requests, "\n"), "eyJ", "no signed token is shown")
			assert.Nil(t, preview.Token)
			assert.Nil(t, preview.Err)
		})
	}
}

func TestAPreviewReadsAPastedAnswer(t *testing.T) {
	p := parsed(t, change{"/answer/extra", object{"region": "/region"}}, change{"/transient_errors", []any{"busy"}})
	preview := previewed(t, p, acme, `{"access_token":"an-access-token-0123456789","expires_in":3600,"region":"eu","scope":"a b"}`, 200)
	require.Nil(t, preview.Err)
	assert.Equal(t, object{
		"access_token": "(26 characters)", "token_type": "Bearer", "http_header": "Authorization: Bearer (26 characters)",
		"lifetime": "1h0m0s", "region": "eu", "scope": []string{"a", "b"},
	}, preview.Token)

	for name, test := range map[string]struct {
		answer string
		status int
		kind   provider.Kind
		reason string
	}{
		"rejection":     {`{"error":"invalid_client","error_description":"unknown client"}`, 401, provider.Rejected, "unknown client"},
		"transient":     {`{"error":"busy"}`, 400, provider.Unavailable, "busy"},
		"outage":        {`x`, 503, provider.Unavailable, "503"},
		"no token":      {`{"token":"t"}`, 200, provider.InvalidResponse, "no access token"},
		"no lifetime":   {`{"access_token":"t"}`, 200, provider.InvalidResponse, "set default_ttl"},
		"no JSON":       {`<html>`, 200, provider.InvalidResponse, ""},
		"no status":     {`{"access_token":"t","expires_in":60}`, 0, provider.InvalidResponse, ""},
		"informational": {`{"access_token":"t","expires_in":60}`, 100, provider.InvalidResponse, ""},
	} {
		preview := previewed(t, p, acme, test.answer, test.status)
		require.NotNil(t, preview.Err, name)
		assert.Equal(t, test.kind, preview.Err.Kind, "%s: %s", name, preview.Err.Reason)
		assert.Contains(t, preview.Err.Reason, test.reason, name)
		assert.Nil(t, preview.Token, name)
	}
}

func TestAPreviewOfASelfSignedTokenSendsNothing(t *testing.T) {
	p := parsed(t,
		change{"/fields/client_secret", nil}, change{"/fields/scope", nil}, change{"/fields/account", nil}, change{"/token_url", nil}, change{"/auth", nil},
		change{"/fields/private_key", object{}}, change{"/assertion", object{"claims": object{"iss": "{client_id}"}}},
		change{"/grants/0/request", nil}, change{"/grants/0/token", "{assertion}"},
	)
	preview := previewed(t, p, object{"client_id": "c", "private_key": rsaKey()}, "", 200)
	require.Len(t, preview.Requests, 1)
	assert.Contains(t, preview.Requests[0], `no request; the token is JWT({"alg":"RS256","typ":"JWT"}, {`)
	assert.Empty(t, preview.Destinations)
	assert.NotEmpty(t, preview.Token["lifetime"])
}

func TestAPreviewAnswersAStepWithWhatIsKept(t *testing.T) {
	changes := session()
	changes[1].value.([]any)[0].(object)["keep"] = object{"session": "/a~1b/c~0d", "number": "/a~1b/n"}
	preview := previewed(t, parsed(t, changes...), acme, "", 200)
	require.Len(t, preview.Requests, 2)
	assert.Contains(t, preview.Requests[1], "X-Session: {session}")
}

func TestAPreviewRefusesWhatAWriteRefuses(t *testing.T) {
	raw, err := json.Marshal(without(acme, "client_secret"))
	require.NoError(t, err)
	_, err = parsed(t).Preview(t.Context(), raw, "", 200)
	require.ErrorContains(t, err, "client_secret: must be set")
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

func TestAPreviewRefusesAnAnswerThatShowsAToken(t *testing.T) {
	d := parsed(t, change{"/answer", object{"refresh_token": "/next", "extra": object{"region": "/region"}}})
	fields := json.RawMessage(`{"account":"acme","client_id":"a","client_secret":"b"}`)
	preview, err := d.Preview(t.Context(), fields, `{"access_token":"at-0123456789","next":"rt-0123456789","region":"rt-0123456789","expires_in":60}`, http.StatusOK)
	require.NoError(t, err)
	require.NotNil(t, preview.Err)
	assert.Contains(t, preview.Err.Reason, "the vendor's region contains a")
	assert.Nil(t, preview.Token)
}
