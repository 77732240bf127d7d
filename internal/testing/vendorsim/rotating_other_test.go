package vendorsim_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A token of one account, or of one server, changes nothing of another.
func TestATokenChangesNoOtherAccount(t *testing.T) {
	for name, c := range map[string]struct {
		kind, other string
		token       map[string]any
		method, url string
		body        string
		status      int
	}{
		"Entra":      {"entra/client_secret", "entra/client_secret", graphScope, "POST", graphURL + "/removePassword", `{"keyId":"{secret_id}"}`, 403},
		"Google":     {"google", "google", cloudPlatform, "DELETE", googleURL + "/{key_id}", "", 403},
		"Databricks": {"databricks/workspace", "databricks/account", map[string]any{}, "DELETE", strings.Replace(databricksURL, "accounts/", "accounts/{account_id}/", 1) + "/{secret_id}", "", 401},
		"Snowflake":  {"snowflake", "snowflake", map[string]any{}, "POST", snowflakeURL, `{"statement":"ALTER USER {user} UNSET RSA_PUBLIC_KEY"}`, 422},
		"Cloudflare": {"cloudflare/user", "cloudflare/user", nil, "DELETE", cloudflareURL + "/{api_token_id}", "", 404},
		"Okta":       {"okta/client_secret", "okta/client_secret", map[string]any{}, "GET", oktaURL + "/secrets", "", 401},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			s, other := newStored(t, sim, c.kind, "prod"), newStored(t, sim, c.other, "other")
			token, _ := s.fields["api_token"].(string)
			if c.token != nil {
				token = s.token(c.token)
			}
			status, text := other.call(c.method, c.url, strings.ReplaceAll(bearer, "<token>", token), c.body)
			assert.Equal(t, c.status, status, text)
			assert.True(t, other.isAccepted())
			assert.Empty(t, sim.Violations())
		})
	}
}

// A vendor that repeats its tokens repeats none for another audience.
func TestARepeatedTokenIsForTheSameAudience(t *testing.T) {
	sim := vendorsim.New()
	sim.Behave(vendorsim.Conduct{Sticky: true})
	s := newStored(t, sim, "databricks/workspace", "prod")
	first := s.token(nil)
	assert.Equal(t, first, s.token(nil))
	s = newStored(t, sim, "auth0/client_secret", "prod")
	assert.NotEqual(t, s.token(nil), s.token(auth0Management))
}

// An application key of Datadog can do what its scopes say; one without scopes, all that its user can do.
func TestDatadogChecksTheScopesOfAnApplicationKey(t *testing.T) {
	s := newStored(t, vendorsim.New(), "datadog", "prod")
	for scopes, want := range map[string]int{`["metrics_read"]`: http.StatusForbidden, `["api_keys_read"]`: http.StatusOK, `null`: http.StatusOK} {
		status, text := s.call(http.MethodPost, datadogURL+"/current_user/application_keys", pair, `{"data":{"type":"application_keys","attributes":{"name":"a","scopes":`+scopes+`}}}`)
		require.Equal(t, http.StatusCreated, status, text)
		var answer struct {
			Data struct{ Attributes struct{ Key string } }
		}
		require.NoError(t, json.Unmarshal([]byte(text), &answer))
		narrow := s.with(map[string]any{"application_key": answer.Data.Attributes.Key})
		assert.True(t, narrow.isAccepted())
		status, text = narrow.call(http.MethodGet, datadogURL+"/api_keys", pair, "")
		assert.Equal(t, want, status, text)
	}
	assert.Empty(t, s.sim.Violations())
}

// A user of Snowflake has two keys, and its tokens end with the key that signed them.
func TestSnowflakeRefusesTheTokensOfARemovedKey(t *testing.T) {
	s := newStored(t, vendorsim.New(), "snowflake", "prod")
	fields, err := s.rotation().Create(t.Context(), s.newSecret())
	require.NoError(t, err)
	next := s.with(fields)
	former, present := s.token(nil), next.token(nil)
	assert.True(t, s.sim.Accepts(former))
	require.NoError(t, next.rotation().Remove(t.Context(), s.former()))
	assert.False(t, s.sim.Accepts(former))
	assert.False(t, s.sim.Accepts(s.token(nil)))
	assert.True(t, s.sim.Accepts(present))
}
