//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Raft's default limit for an entry is 1 MiB. The tokens of 15 scopes, 64 KiB each, survive a seal.
// So does a token of 200 KiB whose vendor fails to revoke the dropped ones before it; of these the
// engine keeps as many as fit.
func TestGuarantee15LargeTokensFitIntoRaft(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m := own.enable(t, "api")
	var scopes []string
	for i := range 15 {
		scopes = append(scopes, fmt.Sprintf("s%d", i))
	}
	client := vendorsim.OAuthClient{
		ID: "idp-client", Secret: "idp-client-secret", Scopes: scopes,
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	}
	m.sim.AddOAuthClient(client)
	large := vendorsim.Conduct{TokenSize: 64 << 10}
	m.behave(large)
	m.write("config/oauth2/api", map[string]any{
		"token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "revocation_url": vendorsim.URL(m.base, vendorsim.OAuthRevocationURL),
		"client_id": client.ID, "client_secret": client.Secret, "auth_style": vendorsim.SecretBasic, "scope": scopes,
	})
	readable := map[string]bool{"api": true}
	for _, scope := range scopes {
		m.write("roles/"+scope, map[string]any{"config": "api", "scope": scope})
		readable[scope] = true
	}
	m.acrossASeal(true, readable)

	large.TokenSize = 200 << 10
	large.Fault = func(r *http.Request) http.HandlerFunc {
		if strings.HasSuffix(r.URL.Path, "/revoke") {
			return vendorsim.Answer(http.StatusServiceUnavailable, "later")
		}
		return nil
	}
	m.behave(large)
	for range 10 {
		_, err := m.root.Logical().WriteWithContext(t.Context(), m.path+"/refresh/api", map[string]any{"drop": true})
		require.NoError(t, err)
	}
	m.acrossASeal(true, map[string]bool{"api": true})
	status := m.read("status/api").Data
	assert.Equal(t, "ok", status["state"])
	assert.NotContains(t, status, "storage_error")
	assert.Contains(t, own.log.String(), "a dropped token will not be revoked", "some dropped tokens do not fit")
}
