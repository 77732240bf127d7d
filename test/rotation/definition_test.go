package rotation_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// issuing is an operator's definition of a vendor that issues a secret, with an ID, and then enables it.
const issuing = `{
  "title": "Acme", "docs": ["https://acme.example/docs"],
  "fields": {"client_id": {"required": true}, "client_secret": {"required": true}, "scope": {}, "secret_id": {"description": "the ID of the secret"}},
  "token_url": "TOKENURL", "auth": "client_secret_basic",
  "grants": [{"grant_type": "client_credentials", "request": {"form": {"grant_type": "client_credentials", "scope": "{scope}"}}}],
  "rotations": [{
    "replaces": ["client_secret", "secret_id"],
    "create": [
      {"request": {"url": "TOKENURL/new", "json": {"name": "{new_name}"}}, "keep": {"issued": "/secret", "issued_id": "/id"}},
      {"request": {"url": "TOKENURL/enable", "json": {"secret": "{issued}"}}}
    ],
    "set": {"client_secret": "{issued}", "secret_id": "{issued_id}"}
  }]
}`

// newIssuing stores a credential of a vendor that gives these answers when it issues and enables a secret.
func newIssuing(t *testing.T, created, enabled http.HandlerFunc) *engine.Engine {
	t.Helper()
	e := engine.New(t)
	e.Sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		switch {
		case strings.HasSuffix(r.URL.Path, "/new"):
			return created
		case strings.HasSuffix(r.URL.Path, "/enable"):
			return enabled
		}
		return nil
	}})
	e.Write("vendors/acme", map[string]any{"definition": strings.ReplaceAll(issuing, "TOKENURL", vendorsim.OAuthTokenURL)})
	e.Write("config/acme/prod", map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "secret_id": "1", "scope": "read"})
	return e
}

// issuedSecret consists of words, so that nothing but its being known makes it a secret.
const issuedSecret = "summer rain house tree"

func TestGuarantee6AnErrorOfARotationQuotesNoNewSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuing(t,
			vendorsim.Answer(http.StatusOK, fmt.Sprintf(`{"secret": %q, "id": "2"}`, issuedSecret)),
			vendorsim.Answer(http.StatusBadRequest, fmt.Sprintf(`{"error": "invalid_request", "error_description": "cannot use %s"}`, issuedSecret)))
		_, _, message := e.Request(logical.UpdateOperation, "config/acme/prod/rotate", nil)
		assert.Contains(t, message, "invalid_request: cannot use [redacted]")
		assert.NotContains(t, fmt.Sprint(e.Read("status/prod").Data), issuedSecret)
		assert.NotContains(t, e.Outside.Text(), issuedSecret)
	})
}

func TestGuarantee6ASecretInAFieldThatReadsShowEndsTheRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuing(t,
			vendorsim.Answer(http.StatusOK, fmt.Sprintf(`{"secret": %q, "id": "id of %s"}`, issuedSecret, issuedSecret)),
			vendorsim.Answer(http.StatusOK, `{}`))
		_, _, message := e.Request(logical.UpdateOperation, "config/acme/prod/rotate", nil)
		assert.Contains(t, message, "secret_id: its new value contains a secret")
		assert.Equal(t, "1", e.Read("config/acme/prod").Data["secret_id"])
		assert.NotContains(t, e.Outside.Text(), issuedSecret)
	})
}
