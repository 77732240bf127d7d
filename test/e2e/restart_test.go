//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Guarantee 10 on a real server with Raft storage on disk: a valid token is served without an
// exchange after a kill of the plugin or the server, a reload, a revocation of leases and a seal.
func TestGuarantee10TokensSurviveEveryRestart(t *testing.T) {
	t.Parallel()
	raft, err := newWorld(t.Context(), vaultserver.StartRaft)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, raft.server.Stop()) })
	m := raft.enable(t, "restart")
	m.behave(vendorsim.Conduct{Rotate: true})
	m.write("config/kensho/prod", m.kensho())
	m.write("config/kensho/batch", m.keyPair())
	m.write("config/sitecore/search", m.sitecore())
	names := []string{"prod", "batch", "search"}
	tokens := map[string]any{}
	for _, name := range names {
		// The refresh makes a token in state/; the token of the verification is in config/.
		m.write("refresh/"+name, nil)
		tokens[name] = m.creds(name).Data["access_token"]
	}
	calls := len(m.sim.Calls())
	same := func(after string) {
		t.Helper()
		for _, name := range names {
			assert.Equal(t, tokens[name], m.creds(name).Data["access_token"], "%s, after %s", name, after)
		}
		assert.Len(t, m.sim.Calls(), calls, "the vendor was called after %s", after)
	}

	for range 3 {
		killed, err := raft.server.KillPlugins()
		require.NoError(t, err)
		assert.Equal(t, 1, killed, "one process for all mounts")
		// The server sends requests to the killed process until it notices, which takes a moment
		// on a busy machine.
		awaitRead(t, raft.root, "restart/status/prod")
		same("kill -9 of the plugin")
	}
	for range 3 {
		require.NoError(t, raft.server.Kill())
		require.NoError(t, raft.server.Start(t.Context()))
		same("kill -9 of the server")
	}
	_, err = raft.root.Sys().ReloadPluginWithContext(t.Context(), &api.ReloadPluginInput{Plugin: pluginName})
	require.NoError(t, err)
	same("vault plugin reload")
	require.NoError(t, raft.root.Sys().RevokePrefixWithContext(t.Context(), "restart/creds"))
	same("vault lease revoke -prefix")
	require.NoError(t, raft.root.Sys().SealWithContext(t.Context()))
	require.NoError(t, raft.server.Unseal(t.Context()))
	same("a seal and an unseal")

	m.write("refresh/prod", nil) // uses the rotated refresh token
	assert.NotEqual(t, tokens["prod"], m.creds("prod").Data["access_token"])
}

// Guarantee 11 with the ticks of Vault's own rollback manager, once a minute.
func TestGuarantee11TokenInUseIsRenewedWithoutARead(t *testing.T) {
	t.Parallel()
	m := enable(t, "ahead")
	m.behave(vendorsim.Conduct{Lifetime: time.Minute})
	m.write("config/kensho/prod", m.keyPair())
	first := m.creds("prod").Data["access_token"]
	tokens, _ := m.sim.Issued()
	issued := func() int {
		now, _ := m.sim.Issued()
		return now - tokens
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for issued() == 0 {
		select {
		case <-ctx.Done():
			t.Fatal("the token was not renewed")
		case <-time.After(time.Second):
		}
	}
	assert.Eventually(t, func() bool { return m.creds("prod").Data["access_token"] != first }, patience, 100*time.Millisecond)
	assert.Equal(t, 1, issued(), "the read makes no exchange")
}

func TestStatusHasNoSecret(t *testing.T) {
	m := enable(t, "status")
	m.write("config/kensho/prod", m.kensho())
	status, err := w.root.Logical().ReadWithContext(t.Context(), "status/status/prod")
	require.NoError(t, err)
	assert.Equal(t, "ok", status.Data["state"])
	list, err := w.root.Logical().ListWithContext(t.Context(), "status/status")
	require.NoError(t, err)
	assert.Equal(t, []any{"prod"}, list.Data["keys"])
	token := m.creds("prod").Data["access_token"]
	for field, value := range status.Data {
		assert.NotEqual(t, token, value, field)
		assert.NotEqual(t, refreshToken, value, field)
	}
}
