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

// The tests of faults do not run in parallel: they measure, and keep the machine busy.

// Promises 3 and 10: whenever the plugin's process is killed, no token is served dead
// and nothing that was written is lost.
func TestFaultPluginKilled(t *testing.T) {
	own := ownWorld(t, vaultserver.StartRaft)
	x := newTrial(t, own, []*api.Client{own.root}, newRotator(t, newTroubles(), nil), patience)
	for range tally.Times(15, 200) {
		x.aMoment()
		x.suffer(func() {
			killed, err := own.server.KillPlugins()
			require.NoError(t, err)
			assert.Equal(t, 1, killed, "one process for all mounts")
		}, 0)
	}
	x.finish("plugin killed (kill -9)", "")
}

// The same of the server, on raft storage. Its plugin is left as it is: it gets its
// answers from the vendor, and has nowhere to write them.
func TestFaultServerKilled(t *testing.T) {
	own := ownWorld(t, vaultserver.StartRaft)
	x := newTrial(t, own, []*api.Client{own.root}, newRotator(t, newTroubles(), nil), patience)
	for range tally.Times(3, 30) {
		x.aMoment()
		x.suffer(func() {
			require.NoError(t, own.server.Kill())
			require.NoError(t, own.server.Start(t.Context()))
		}, 0)
	}
	x.finish("server killed (kill -9)", "")
}
