package providertest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// odd are optional members of a response with unexpected values.
var odd = []map[string]any{
	{"error": false}, {"error": nil}, {"error": ""}, {"error": 0}, {"error": []any{}}, {"error": map[string]any{}},
	{"error_description": 7}, {"token_type": []string{"Bearer"}}, {"token_type": 7}, {"scope": 7}, {"scope": map[string]any{"a": true}},
	{"refresh_token": 7, "refreshToken": []any{}}, {"refresh_token": nil, "refreshToken": nil},
	{"expires_in": false, "accessTokenExpiry": false}, {"expires_in": []any{60}, "accessTokenExpiry": map[string]any{}},
	{"refreshTokenExpiry": 0}, {"refreshTokenExpiry": false}, {"refreshTokenExpiry": "never"},
}

// testFormats checks that a token is accepted despite odd members, and in each format that
// vendors use.
func (k Kind) testFormats(t *testing.T, c Contract) {
	for _, members := range odd {
		k.takes(t, c, func(object map[string]any) string {
			maps.Copy(object, members)
			return asJSON(t, object)
		})
	}
	k.takes(t, c, func(object map[string]any) string { return "\xef\xbb\xbf" + asJSON(t, object) })
	k.takes(t, c, func(object map[string]any) string {
		if object["access_token"] == nil {
			return asJSON(t, object) // the vendor does not use forms
		}
		form := url.Values{}
		for name, value := range object {
			text, isText := value.(string)
			if !isText {
				text = asJSON(t, value)
			}
			form.Set(name, text)
		}
		return form.Encode()
	})
}

// takes checks that the token is accepted if write rewrites the vendor's response.
func (k Kind) takes(t *testing.T, c Contract, write func(object map[string]any) string) {
	t.Helper()
	vendor, body, want := k.Vendor(), "", ""
	credential := c.open(t, k, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := httptest.NewRecorder()
		vendor.ServeHTTP(recorded, r)
		var object map[string]any
		assert.NoError(t, json.Unmarshal(recorded.Body.Bytes(), &object))
		for _, name := range []string{"access_token", "accessToken"} {
			if token, ok := object[name].(string); ok {
				want = token
			}
		}
		body = write(object)
		w.WriteHeader(recorded.Code)
		_, _ = w.Write([]byte(body))
	}))
	answer, err := credential.Exchange(t.Context(), provider.Grant{})
	if assert.NoError(t, err, body) {
		token, err := answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
		assert.NoError(t, err, body)
		if want != "" { // unless the vendor has another name for it
			assert.Equal(t, want, token.AccessToken, body)
		}
		assert.Equal(t, "Bearer", token.TokenType, body)
	}
}

// testQuotedErrors checks that an error with status 200 is quoted.
func (k Kind) testQuotedErrors(t *testing.T, c Contract) {
	for body, says := range map[string]string{
		`{"error":"no_such_client","error_description":"ask the owner"}`:            "no_such_client: ask the owner",
		`{"error":{"code":"E17","message":"ask the owner"}}`:                        "E17: ask the owner",
		`{"errors":[{"message":"ask the owner"}]}`:                                  "ask the owner",
		`{"access_token":7,"accessToken":7,"msg":"ask the owner"}`:                  ": ask the owner",
		"\xef\xbb\xbf" + `{"error":"no_such_client"}`:                               "no_such_client",
		"error=no_such_client&error_description=ask+the+owner":                      "no_such_client: ask the owner",
		`{"access_token":"","accessToken":"","error":true,"title":"ask the owner"}`: "ask the owner",
	} {
		credential := c.open(t, k, vendorsim.Answer(200, body))
		answer, err := credential.Exchange(t.Context(), provider.Grant{})
		if err == nil { // the token may turn out to be missing
			_, err = answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
		}
		assert.ErrorContains(t, err, says)
	}
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.Marshal(value)
	require.NoError(t, err)
	return string(raw)
}
