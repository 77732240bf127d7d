//go:build e2e

package e2e

import (
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// The fault tests do not run in parallel, because they measure times under load.

// Guarantees 3 and 10: given a kill of the plugin's process at a random time, no expired token is
// served and no stored refresh token is lost.
func TestFaultPluginKilled(t *testing.T) {
	own := ownWorld(t, vaultserver.StartRaft)
	x := newTrial(t, own, []*api.Client{own.root}, newRotator(t, newTroubles(), nil), patience)
	for range tally.Times(15, 200) {
		x.waitRandomly()
		x.breakNodes(func() {
			killed, err := own.server.KillPlugins()
			require.NoError(t, err)
			assert.Equal(t, 1, killed, "one process for all mounts")
		}, 0)
	}
	x.finish("plugin killed (kill -9)", "")
}

// The same for a kill of the server. The plugin's process still gets the vendor's answers, but
// cannot store them.
func TestFaultServerKilled(t *testing.T) {
	own := ownWorld(t, vaultserver.StartRaft)
	x := newTrial(t, own, []*api.Client{own.root}, newRotator(t, newTroubles(), nil), patience)
	for range tally.Times(3, 30) {
		x.waitRandomly()
		x.breakNodes(func() {
			require.NoError(t, own.server.Kill())
			require.NoError(t, own.server.Start(t.Context()))
		}, 0)
	}
	x.finish("server killed (kill -9)", "")
}
