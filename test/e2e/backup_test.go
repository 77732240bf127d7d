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

// stocked is a mount with a credential of each way to go on: a refresh token that the
// vendor replaces, one of an OAuth 2.0 server that does the same, an API key.
func stocked(t *testing.T, own *world, path string) (m *mount, names []string) {
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

// restore is `vault operator raft snapshot restore -force`.
func (m *mount) restore(snapshot []byte) {
	m.t.Helper()
	require.NoError(m.t, m.root.Sys().RaftSnapshotRestoreWithContext(m.t.Context(), bytes.NewReader(snapshot), true))
}

// heir is the mount on a new server that has been given another's snapshot and keys.
func (m *mount) heir(snapshot []byte) *mount {
	m.t.Helper()
	server, err := vaultserver.StartRaft(m.t.Context(), os.Getenv("VAULT"), m.log, atTrace...)
	require.NoError(m.t, err)
	m.t.Cleanup(func() { assert.NoError(m.t, server.Stop()) })
	require.NoError(m.t, server.InstallPlugin(os.Getenv("PLUGIN")))
	heir := *m
	own := *m.world
	heir.world, own.server = &own, server
	own.root, err = server.Client()
	require.NoError(m.t, err)
	heir.restore(snapshot)
	// The snapshot's keys are not this server's, which seals itself for it, some time after
	// it has answered.
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
	return &heir
}

// Whatever has been destroyed is there again after a snapshot is restored, on the same
// server and on a new one: tokens are served as before, with no vendor called.
func TestASnapshotIsRestored(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m, names := stocked(t, own, "kensho")
	tokens := m.tokensOf(names)
	snapshot := own.snapshot(t)

	for name, provider := range map[string]string{"prod": "kensho", "search": "sitecore", "api": "oauth2"} {
		_, err := m.root.Logical().DeleteWithContext(t.Context(), "kensho/config/"+provider+"/"+name)
		require.NoError(t, err)
	}
	calls := len(m.sim.Calls()) // with those of the deletions, which revoke what they can
	m.restore(snapshot)
	m.awaitToken(tokens["prod"])
	assert.Equal(t, tokens, m.tokensOf(names), "on the same server")
	assert.Len(t, m.sim.Calls(), calls, "a vendor was called")

	heir := m.heir(snapshot)
	heir.awaitToken(tokens["prod"])
	assert.Equal(t, tokens, heir.tokensOf(names), "on a new one")
	assert.Len(t, m.sim.Calls(), calls, "a vendor was called")
	for _, name := range names {
		heir.write("refresh/"+name, nil) // what the snapshot holds is good, as it has not been used since
	}
}

// A snapshot holds the refresh token of its time. Where the vendor has replaced it since,
// what is restored is spent: the token lives on until it dies, and then a person has to
// write another credential, at the path that the message names.
func TestASnapshotHoldsTheRefreshTokenOfItsTime(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m, names := stocked(t, own, "kensho")
	tokens := m.tokensOf(names)
	snapshot := own.snapshot(t)
	for _, name := range names {
		m.write("refresh/"+name, nil)
	}
	m.restore(snapshot)
	m.awaitToken(tokens["prod"]) // which is good until it dies

	refresh := func(name string, data map[string]any) error {
		_, err := m.root.Logical().WriteWithContext(t.Context(), "kensho/refresh/"+name, data)
		return err
	}
	require.NoError(t, refresh("search", nil), "an API key is never spent")
	for name, path := range map[string]string{"prod": "config/kensho/prod", "api": "config/oauth2/api"} {
		assertStatus(t, 400, "the vendor rejected the credential", refresh(name, nil))
		assert.Equal(t, tokens[name], m.creds(name).Data["access_token"], "a refresh keeps what is valid")
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

// exchanged is how many tokens the vendors have issued.
func (m *mount) exchanged() int {
	issued, _ := m.sim.Issued()
	return issued
}

// A mount that is moved takes all that it knows along, but for its leases, which Vault
// revokes; and the policies stay behind.
func TestAMountIsMoved(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	m, names := stocked(t, own, "old")
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
	assert.Equal(t, exchanged, m.exchanged(), "a vendor was asked for another token")
	require.Eventually(t, func() bool { return !m.leased(lease) && !m.sim.Accepts(dedicated) }, patience, 50*time.Millisecond)
	nothing, err := app.Logical().ReadWithContext(t.Context(), "old/creds/prod")
	require.NoError(t, err)
	assert.Nil(t, nothing, "there is no mount any more")
	_, err = app.Logical().ReadWithContext(t.Context(), "new/creds/prod")
	assertStatus(t, 403, "permission denied", err)
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "app", `path "new/creds/prod" { capabilities = ["read"] }`))
	_, err = app.Logical().ReadWithContext(t.Context(), "new/creds/prod")
	require.NoError(t, err)
	moved.write("refresh/prod", nil)
}
