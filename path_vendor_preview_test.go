package tokenbroker_test

import (
	"net/http"
	"os"
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
