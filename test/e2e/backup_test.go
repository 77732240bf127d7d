//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newStockedMount enables a mount with three credentials: a rotated refresh token of Kensho, one
// of an OAuth 2.0 server, and an API key.
func newStockedMount(t *testing.T, own *world, path string) (m *mount, names []string) {
	t.Helper()
	m = own.enable(t, path)
	m.behave(vendorsim.Conduct{Rotate: true})
	client := vendorsim.OAuthClient{
		ID: "idp-client", Secret: "idp-client-secret", Rotate: true, Scopes: []string{"read"},
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.RefreshTokenGrant},
	}
	m.sim.AddOAuthClient(client)
	m.sim.AddOAuthRefreshToken(client, "refresh-token-of-idp-0123456789", "read")
	m.write("config/kensho/prod", m.kensho())
	m.write("config/sitecore/search", m.sitecore())
	m.write("config/oauth2/api", map[string]any{
		"token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "client_id": client.ID, "client_secret": client.Secret,
		"auth_style": vendorsim.SecretBasic, "refresh_token": "refresh-token-of-idp-0123456789", "scope": "read",
	})
	names = []string{"prod", "search", "api"}
	for _, name := range names {
		m.write("refresh/"+name, nil)
	}
	return m, names
}

func (m *mount) tokensOf(names []string) map[string]any {
	m.t.Helper()
	tokens := map[string]any{}
	for _, name := range names {
		tokens[name] = m.creds(name).Data["access_token"]
	}
	return tokens
}

func (w *world) snapshot(t *testing.T) []byte {
	t.Helper()
	var snapshot bytes.Buffer
	require.NoError(t, w.root.Sys().RaftSnapshotWithContext(t.Context(), &snapshot))
	return snapshot.Bytes()
}

// restore restores a snapshot, as `vault operator raft snapshot restore -force` does.
func (m *mount) restore(snapshot []byte) {
	m.t.Helper()
	require.NoError(m.t, m.root.Sys().RaftSnapshotRestoreWithContext(m.t.Context(), bytes.NewReader(snapshot), true))
}

// successor returns the mount on a new server, which gets a snapshot and the unseal keys of this one.
func (m *mount) successor(snapshot []byte) *mount {
	m.t.Helper()
	server, err := vaultserver.StartRaft(m.t.Context(), os.Getenv("VAULT"), m.log, atTrace...)
	require.NoError(m.t, err)
	m.t.Cleanup(func() { assert.NoError(m.t, server.Stop()) })
	require.NoError(m.t, server.InstallPlugin(os.Getenv("PLUGIN")))
	successor := *m
	own := *m.world
	successor.world, own.server = &own, server
	own.root, err = server.Client()
	require.NoError(m.t, err)
	successor.restore(snapshot)
	// The snapshot has other keys than the new server, which therefore seals itself some time
	// after its answer.
	require.EventuallyWithT(m.t, func(c *assert.CollectT) {
		status, err := own.root.Sys().SealStatusWithContext(m.t.Context())
		if assert.NoError(c, err) {
			assert.True(c, status.Sealed)
		}
	}, patience, 50*time.Millisecond)
	server.Inherit(m.server)
	require.NoError(m.t, server.Unseal(m.t.Context()))
	own.root, err = server.Client()
	require.NoError(m.t, err)
	return &successor
}

// After a snapshot is restored, on the same server or a new one, deleted credentials exist again,
// and their tokens are served without a call to a vendor.
func TestASnapshotIsRestored(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m, names := newStockedMount(t, own, "kensho")
	tokens := m.tokensOf(names)
	snapshot := own.snapshot(t)

	for name, provider := range map[string]string{"prod": "kensho", "search": "sitecore", "api": "oauth2"} {
		_, err := m.root.Logical().DeleteWithContext(t.Context(), "kensho/config/"+provider+"/"+name)
		require.NoError(t, err)
	}
	calls := len(m.sim.Calls()) // includes the revocations by the deletes
	m.restore(snapshot)
	m.awaitToken(tokens["prod"])
	assert.Equal(t, tokens, m.tokensOf(names), "on the same server")
	assert.Len(t, m.sim.Calls(), calls, "a vendor was called")

	successor := m.successor(snapshot)
	successor.awaitToken(tokens["prod"])
	assert.Equal(t, tokens, successor.tokensOf(names), "on a new server")
	assert.Len(t, m.sim.Calls(), calls, "a vendor was called")
	for _, name := range names {
		successor.write("refresh/"+name, nil) // the snapshot's credentials have not been used since
	}
}

// Given a refresh token that the vendor has rotated since the snapshot, the restored one is spent:
// the restored access token is served until it expires, and the error then names the path where a
// person must write a new credential.
func TestSnapshotHasTheRefreshTokenOfItsTime(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m, names := newStockedMount(t, own, "kensho")
	tokens := m.tokensOf(names)
	snapshot := own.snapshot(t)
	for _, name := range names {
		m.write("refresh/"+name, nil)
	}
	m.restore(snapshot)
	m.awaitToken(tokens["prod"]) // valid until it expires

	refresh := func(name string, data map[string]any) error {
		_, err := m.root.Logical().WriteWithContext(t.Context(), "kensho/refresh/"+name, data)
		return err
	}
	require.NoError(t, refresh("search", nil), "an API key is not spent by an exchange")
	for name, path := range map[string]string{"prod": "config/kensho/prod", "api": "config/oauth2/api"} {
		assertStatus(t, 400, "the vendor rejected the credential", refresh(name, nil))
		assert.Equal(t, tokens[name], m.creds(name).Data["access_token"], "a failed refresh keeps the valid token")
		assert.Equal(t, "degraded", m.read("status/" + name).Data["state"])

		assertStatus(t, 400, "the vendor rejected the credential", refresh(name, map[string]any{"drop": true}))
		_, err := m.root.Logical().ReadWithContext(t.Context(), "kensho/creds/"+name)
		assertStatus(t, 400, "write a new one to "+path, err)
		assert.Equal(t, "failed", m.read("status/" + name).Data["state"])
	}
	m.sim.AddRefreshToken("link-streaming", "another-refresh-token-0123456789")
	m.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token-0123456789"})
	m.creds("prod")
}

// exchanged returns the number of tokens that the vendors have issued.
func (m *mount) exchanged() int {
	issued, _ := m.sim.Issued()
	return issued
}

// A moved mount keeps its credentials and tokens. Vault revokes its leases, and policies still
// name the old path.
func TestMountIsMoved(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m, names := newStockedMount(t, own, "old")
	m.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: "own-client", Secret: "own-client-secret", Scopes: []string{"read"},
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	m.write("config/oauth2/own", map[string]any{
		"token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "revocation_url": vendorsim.URL(m.base, vendorsim.OAuthRevocationURL),
		"client_id": "own-client", "client_secret": "own-client-secret", "auth_style": vendorsim.SecretBasic, "scope": "read",
	})
	m.write("roles/mine", map[string]any{"config": "own", "dedicated": true})
	dedicated := m.creds("mine").Data["access_token"].(string)
	tokens, exchanged := m.tokensOf(names), m.exchanged()
	lease := m.creds("prod").LeaseID
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "app", `path "old/creds/prod" { capabilities = ["read"] }`))
	created, err := m.root.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"app"}})
	require.NoError(t, err)
	app := m.as(created.Auth.ClientToken)

	require.NoError(t, m.root.Sys().RemountWithContext(t.Context(), "old", "new"))
	t.Cleanup(func() { assert.NoError(t, m.root.Sys().RemountWithContext(context.Background(), "new", "old")) })
	moved := *m
	moved.path = "new"
	moved.awaitToken(tokens["prod"])
	assert.Equal(t, tokens, moved.tokensOf(names))
	assert.Equal(t, exchanged, m.exchanged(), "a vendor was asked for a new token")
	require.Eventually(t, func() bool { return !m.leased(lease) && !m.sim.Accepts(dedicated) }, patience, 50*time.Millisecond)
	nothing, err := app.Logical().ReadWithContext(t.Context(), "old/creds/prod")
	require.NoError(t, err)
	assert.Nil(t, nothing, "the old path has no mount")
	_, err = app.Logical().ReadWithContext(t.Context(), "new/creds/prod")
	assertStatus(t, 403, "permission denied", err)
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "app", `path "new/creds/prod" { capabilities = ["read"] }`))
	_, err = app.Logical().ReadWithContext(t.Context(), "new/creds/prod")
	require.NoError(t, err)
	moved.write("refresh/prod", nil)
}
