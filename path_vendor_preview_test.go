package tokenbroker_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestAPreviewTriesADefinitionBeforeAndAfterItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		text, err := os.ReadFile("examples/vendor/acme.json")
		require.NoError(t, err)
		const answer = `{"data": {"token": "secret-token", "expires_at": 946688400, "api_url": "https://eu.api.acme.example"}}`
		given := func() map[string]any {
			return map[string]any{"definition": string(text), "region": "eu", "api_key": engine.APIKey, "answer": answer}
		}
		check := func() {
			t.Helper()
			resp, status, message := e.Request(logical.UpdateOperation, "vendors/acme/preview", given())
			require.Equal(t, http.StatusOK, status, message)
			assert.Equal(t, []string{"POST https://eu.login.acme.example/v1/tokens\nAccept: application/json\nContent-Type: application/json\nX-Api-Key: {api_key}\n\n{\"lifetime\":3600}"}, resp.Data["requests"])
			token := resp.Data["token"].(map[string]any)
			assert.Equal(t, "X-Acme-Token: (12 characters)", token["http_header"])
			assert.Equal(t, "59m58s", token["lifetime"], "a second for each of the clocks")
		}
		check()
		_, status, _ := e.Request(logical.ReadOperation, "vendors/acme", nil)
		assert.Equal(t, http.StatusNotFound, status, "a preview stores nothing")
		e.Write("vendors/acme", map[string]any{"definition": string(text)})
		check()
		assert.Zero(t, e.Sim.Count(), "a preview sends nothing")
	})
}

func TestAPreviewAndAWriteWarnOfAFieldThatMayBeASecret(t *testing.T) {
	e := engine.New(t)
	definition := func(field string) map[string]any {
		text := strings.NewReplacer("SESSION_TOKEN", field).Replace(`{
  "title": "Acme", "docs": ["https://docs.acme.example/"], "fields": {"session_token": SESSION_TOKEN}, "token_url": "https://acme.example/token",
  "grants": [{"grant_type": "session", "request": {"form": {"session": "{session_token}"}}}]
}`)
		return map[string]any{"definition": text, "session_token": "x"}
	}
	for field, want := range map[string][]string{
		`{"description": "the session"}`:                 {`/fields/session_token: the value is shown to those who read the credential; if it is a secret, add "secret": true`},
		`{"description": "the session", "secret": true}`: nil,
	} {
		resp, status, message := e.Request(logical.UpdateOperation, "vendors/acme/preview", definition(field))
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, want, resp.Warnings)
		resp, status, message = e.Request(logical.UpdateOperation, "vendors/acme", map[string]any{"definition": definition(field)["definition"]})
		require.Equal(t, http.StatusOK, status, message)
		if resp == nil {
			resp = &logical.Response{}
		}
		assert.Equal(t, want, resp.Warnings)
	}
}

func TestAPreviewRefusesWhatAWriteWouldRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		text, err := os.ReadFile("examples/vendor/acme.json")
		require.NoError(t, err)
		for says, input := range map[string]map[string]any{
			"unknown vendor": {"region": "eu"},
			"definition: /: missing properties 'title', 'fields', 'grants'": {"definition": "{}"},
			`unknown field "regoin"`:         {"definition": string(text), "regoin": "eu"},
			"status: must be a whole number": {"definition": string(text), "status": "much"},
			"region: must be set":            {"definition": string(text), "api_key": engine.APIKey},
		} {
			_, status, message := e.Request(logical.UpdateOperation, "vendors/acme/preview", input)
			assert.Equal(t, http.StatusBadRequest, status, says)
			assert.Contains(t, message, says)
		}
	})
}

func TestAPreviewShowsHowTheAPITakesAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const definition = `{"title": "Acme", "fields": {"api_key": {}, "company": {"description": "the company (7)", "required": true}}, "token_url": "https://acme.example/",
			"grants": [{"grant_type": "api_key", "request": {"form": {"key": "{api_key}"}}}],
			"answer": {"expiry": "/expires", "expiry_unit": "rfc3339"}, "api": {"query": "auth", "headers": {"X-Company": "{company}"}}}`
		e := engine.New(t)
		preview := func(expires string) map[string]any {
			resp, status, message := e.Request(logical.UpdateOperation, "vendors/acme/preview", map[string]any{
				"definition": definition, "api_key": engine.APIKey, "company": "7",
				"answer": `{"access_token": "a-token-0123456789", "expires": "` + expires + `"}`,
			})
			require.Equal(t, http.StatusOK, status, message)
			return resp.Data
		}
		token := preview("2000-01-01T18:00:00+01:00")["token"].(map[string]any)
		assert.Equal(t, "auth=%2818+characters%29", token["query_parameter"])
		assert.Equal(t, map[string]string{"X-Company": "7"}, token["other_http_headers"])
		assert.NotContains(t, token, "http_header")

		expired := preview("1999-12-31T18:00:00+01:00")
		assert.Equal(t, "invalid_response", expired["error_kind"])
		assert.Contains(t, expired["error"], "expired at 1999-12-31T16:59:5")
		assert.NotContains(t, expired, "token")

		e.Write("vendors/acme", map[string]any{"definition": definition})
		read := e.Read("vendors/acme").Data
		assert.Equal(t, "auth=<access_token>", read["query_parameter"])
		assert.Equal(t, map[string]string{"X-Company": "{company}"}, read["other_http_headers"])
		_, status, message := e.Request(logical.UpdateOperation, "vendors/snowflake/preview", map[string]any{"account": "a", "user": "u", "private_key_source": "generated"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "private_key_source: a preview uses no key pair; give a private_key", message)
		help, _, _ := e.Request(logical.HelpOperation, "config/snowflake/prod", nil)
		assert.Contains(t, help.Data["help"], "ALTER USER")
		assert.Contains(t, help.Data["help"], "https://docs.snowflake.com/")
	})
}
