//go:build e2e

package e2e

import (
	"crypto"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const carol = "carol@example.com"

// addService adds the credential service, whose key can act for alice, bob and carol.
func (m *mount) addService() {
	m.t.Helper()
	m.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: clientID, Keys: map[string]crypto.PublicKey{"": &privateKey().PublicKey}, Scopes: []string{"read"},
		Grants: []string{vendorsim.JWTBearerGrant}, Subjects: []string{alice, bob, carol},
	})
	m.write("config/oauth2/service", map[string]any{
		"token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "client_id": clientID, "private_key": privateKeyPEM(),
		"grant_type": "jwt_bearer", "scope": "read", "verify": false,
	})
}

// administer writes as an administrator, and returns the data of the answer.
func (w *world) administer(t *testing.T, path string, data map[string]any) map[string]any {
	t.Helper()
	secret, err := w.root.Logical().WriteWithContext(t.Context(), path, data)
	require.NoError(t, err, path)
	if secret == nil {
		return nil
	}
	return secret.Data
}

func (w *world) accessor(t *testing.T, auth string) string {
	t.Helper()
	mounts, err := w.root.Sys().ListAuthWithContext(t.Context())
	require.NoError(t, err)
	return mounts[auth+"/"].Accessor
}

// addEntity adds an identity with an address, and with an alias of an auth method. It returns their IDs.
func (w *world) addEntity(t *testing.T, address, auth, alias string) (entity, aliasID string) {
	t.Helper()
	entity = w.administer(t, "identity/entity", map[string]any{"name": "the identity of " + address, "metadata": map[string]any{"email": address}})["id"].(string)
	return entity, w.administer(t, "identity/entity-alias", map[string]any{"name": alias, "canonical_id": entity, "mount_accessor": w.accessor(t, auth)})["id"].(string)
}

// readerOf returns the client of a reader who logs in.
func (m *mount) readerOf(path string, data map[string]any) *api.Client {
	m.t.Helper()
	secret, err := m.as("").Logical().WriteWithContext(m.t.Context(), path, data)
	require.NoError(m.t, err)
	return m.as(secret.Auth.ClientToken)
}

func trimmed(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.TrimSpace(string(content))
}

// personOf returns the person that the token of a read acts for, and the token.
func (m *mount) personOf(reader *api.Client, path string) (person, token string) {
	m.t.Helper()
	secret, err := reader.Logical().ReadWithContext(m.t.Context(), m.path+"/"+path)
	require.NoError(m.t, err)
	token = secret.Data["access_token"].(string)
	require.True(m.t, m.sim.Accepts(token))
	return m.sim.About(token).Subject, token
}

// Two people log in, one by userpass and one by AppRole, and read one path of a real server. Each gets a
// token that acts for the own person.
func TestTwoLoginsReadOnePathAndGetTwoPeoplesTokens(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m := own.enable(t, "kensho") // as in the examples
	m.addService()
	m.write("roles/prod", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.metadata.email}}"})

	d := m.deploy("app") // an AppRole that may read kensho/creds/prod
	roleID, secretID := trimmed(t, filepath.Join(d.dir, "role-id")), trimmed(t, filepath.Join(d.dir, "secret-id"))
	own.addEntity(t, bob, "approle", roleID)
	require.NoError(t, own.root.Sys().EnableAuthWithOptionsWithContext(t.Context(), "userpass", &api.EnableAuthOptions{Type: "userpass"}))
	require.NoError(t, own.root.Sys().PutPolicyWithContext(t.Context(), "mine", `path "kensho/creds/mine" { capabilities = ["read"] }`))
	own.administer(t, "auth/userpass/users/alice", map[string]any{"password": "wonderland", "token_policies": "app,mine"})
	aliceEntity, aliceAlias := own.addEntity(t, alice, "userpass", "alice")
	m.write("roles/mine", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.aliases." + own.accessor(t, "userpass") + ".name}}@example.com"})

	byPassword := m.readerOf("auth/userpass/login/alice", map[string]any{"password": "wonderland"})
	byRole := m.readerOf("auth/approle/login", map[string]any{"role_id": roleID, "secret_id": secretID})
	person, alices := m.personOf(byPassword, "creds/prod")
	assert.Equal(t, alice, person)
	person, bobs := m.personOf(byRole, "creds/prod")
	assert.Equal(t, bob, person)
	person, same := m.personOf(byPassword, "creds/mine")
	assert.Equal(t, alice, person, "by the name of the alias")
	assert.Equal(t, alices, same, "a person has one token, whatever the role")
	assert.Len(t, m.sim.Calls(), 2)
	status, err := own.root.Logical().ReadWithContext(t.Context(), "kensho/status/service")
	require.NoError(t, err)
	assert.Equal(t, json.Number("2"), status.Data["variants"])

	_, err = own.root.Logical().ReadWithContext(t.Context(), "kensho/creds/prod")
	assertStatus(t, http.StatusForbidden, "this token of Vault has no entity", err)
	_, err = byRole.Logical().ReadWithContext(t.Context(), "kensho/creds/mine")
	assertStatus(t, http.StatusForbidden, "permission denied", err)

	t.Run("a restart of the server", func(t *testing.T) {
		require.NoError(t, own.server.Kill())
		require.NoError(t, own.server.Start(t.Context()))
		_, after := m.personOf(byPassword, "creds/prod")
		assert.Equal(t, alices, after)
		_, after = m.personOf(byRole, "creds/prod")
		assert.Equal(t, bobs, after)
		assert.Len(t, m.sim.Calls(), 2, "the vendor was called")
	})
	t.Run("an Agent", func(t *testing.T) {
		cmd := own.server.Command(t.Context(), "", "agent", "-config=file.hcl", "-exit-after-auth")
		cmd.Dir = d.dir
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, string(output))
		token, err := os.ReadFile(filepath.Join(d.dir, "kensho-token"))
		require.NoError(t, err)
		assert.Equal(t, bobs, string(token))
	})
	t.Run("a change of the identity", func(t *testing.T) {
		own.administer(t, "identity/entity/id/"+aliceEntity, map[string]any{"metadata": map[string]any{"email": carol}})
		person, _ := m.personOf(byPassword, "creds/prod")
		assert.Equal(t, carol, person)
		person, _ = m.personOf(byPassword, "creds/mine")
		assert.Equal(t, alice, person)
		own.administer(t, "identity/entity-alias/id/"+aliceAlias, map[string]any{"name": "carol", "canonical_id": aliceEntity, "mount_accessor": own.accessor(t, "userpass")})
		person, _ = m.personOf(byPassword, "creds/mine")
		assert.Equal(t, carol, person)
		person, _ = m.personOf(byRole, "creds/prod")
		assert.Equal(t, bob, person)
	})
}
