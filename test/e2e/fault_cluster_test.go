//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// unknownNode is the caller on a connection that was closed before its node could be found out,
// or no node.
const unknownNode = -1

// cluster is a trial on three nodes.
type cluster struct {
	*trial
	nodes  *vaultserver.Cluster
	active int
}

func newCluster(t *testing.T, timeout time.Duration) *cluster {
	t.Helper()
	nodes, world, clients := startCluster(t)
	vendor := newRotator(t, newTroubles(), func(conn net.Conn) int {
		if node, found := nodes.NodeAt(conn); found {
			return node
		}
		return unknownNode
	})
	x := &cluster{nodes: nodes, trial: newTrial(t, world, clients, vendor, timeout)}
	x.active = x.leader(unknownNode)
	return x
}

// startCluster starts the nodes, and returns a client of each. That of the world is of the first.
func startCluster(t *testing.T) (*vaultserver.Cluster, *world, []*api.Client) {
	t.Helper()
	log := &logBuffer{}
	nodes, err := vaultserver.StartCluster(t.Context(), os.Getenv("VAULT"), log, atTrace...)
	require.NoError(t, err, log)
	t.Cleanup(func() {
		assert.NoError(t, nodes.Stop())
		if t.Failed() {
			t.Log(log)
		}
	})
	clients := make([]*api.Client, len(nodes.Nodes))
	for i, node := range nodes.Nodes {
		require.NoError(t, node.InstallPlugin(os.Getenv("PLUGIN")))
		clients[i], err = node.Client()
		require.NoError(t, err)
	}
	world := &world{server: nodes.Nodes[0], root: clients[0], version: os.Getenv("PLUGIN_VERSION"), log: log, outside: &outside{}}
	require.NoError(t, world.watch(t.Context()))
	for i, client := range clients {
		clients[i], err = world.recorded(client)
		require.NoError(t, err)
	}
	require.NoError(t, world.registerPlugin(t.Context(), "secret", pluginName, os.Getenv("PLUGIN"), "-version="+world.version))
	return nodes, world, clients
}

func (x *cluster) leader(former int) int {
	x.t.Helper()
	return awaitLeader(x.t, x.nodes, former)
}

// awaitLeader waits until all connected nodes agree on an active node other than former, and returns
// it.
func awaitLeader(t *testing.T, nodes *vaultserver.Cluster, former int) int {
	t.Helper()
	var leader int
	require.Eventually(t, func() (agreed bool) {
		leader, agreed = nodes.Leader(t.Context())
		return agreed && leader != former
	}, patience, 20*time.Millisecond, "the nodes agree on no leader")
	return leader
}

// others returns the nodes that are not active.
func (x *cluster) others() []int {
	var others []int
	for node := range x.clients {
		if node != x.active {
			others = append(others, node)
		}
	}
	return others
}

// lose breaks the active node, waits until another takes over and calls the vendor, and restores
// the former one as a standby. It reports whether that was the only election; a busy machine may
// cause others.
func (x *cluster) lose(breaking, mending func(node int)) (only bool) {
	x.t.Helper()
	old, began, elections := x.active, time.Now(), x.elections()
	x.begin(nodeName(old))
	x.breakNodes(func() {
		breaking(old)
		x.active = x.leader(old)
	}, x.others()...)
	mending(old)
	require.NoError(x.t, x.nodes.Settle(x.t.Context()))
	x.awaitBack(old)
	x.active = x.leader(unknownNode)
	x.rewriteLost()

	require.Eventually(x.t, func() bool { return x.vendor.caller() == x.active }, patience, 20*time.Millisecond, "the active node does not call the vendor")
	called := x.vendor.calledSince(began)
	if elections = x.elections() - elections; elections > 1 {
		x.t.Logf("%d elections instead of one: %v have called", elections, called)
		x.disturbed = true
		return false
	}
	assert.LessOrEqual(x.t, len(called), 1, "more than one node took over the vendor from node %d: %v", old, called)
	return true
}

// elections returns how often a node has become the leader, from the nodes' logs.
func (x *cluster) elections() int {
	return strings.Count(x.world.log.String(), "storage.raft: entering leader state")
}

// Guarantee 10 in a cluster: after any loss of the active node, the next one serves the same tokens
// without needless exchanges, also to the standbys' readers, and only it calls the vendor.
func TestFaultActiveNodeLost(t *testing.T) {
	for _, f := range []struct {
		name              string
		orderly           bool          // the engine can finish its writes, so no loss is allowed
		timeout           time.Duration // the time limit of a read
		breaking, mending func(x *cluster, node int)
	}{
		{
			name:    "active node killed (kill -9)",
			timeout: patience,
			breaking: func(x *cluster, node int) {
				require.NoError(x.t, x.nodes.Nodes[node].Kill())
			},
			mending: func(x *cluster, node int) {
				require.NoError(x.t, x.nodes.Nodes[node].Start(x.t.Context()))
			},
		},
		{
			name:    "active node stepped down",
			orderly: true,
			timeout: patience,
			breaking: func(x *cluster, node int) {
				require.NoError(x.t, x.clients[node].Sys().StepDownWithContext(x.t.Context()))
			},
			mending: func(*cluster, int) {},
		},
		{
			name:     "active node cut off from its peers",
			timeout:  patience,
			breaking: func(x *cluster, node int) { x.nodes.CutOff(node) },
			mending:  func(x *cluster, node int) { x.nodes.Reconnect(node) },
		},
		{
			// A standby takes over only after the readers that it forwards to the suspended node
			// have timed out.
			name:    "active node suspended for longer than an election takes",
			timeout: 15 * time.Second,
			breaking: func(x *cluster, node int) {
				require.NoError(x.t, x.nodes.Pause(node))
			},
			mending: func(x *cluster, node int) {
				require.NoError(x.t, x.nodes.Resume(node))
			},
		},
	} {
		t.Run(f.name, func(t *testing.T) {
			x := newCluster(t, f.timeout)
			x.orderly = f.orderly
			for times, tries := tally.Times(1, 15), 0; times > 0; tries++ {
				require.Less(t, tries, 30, "elections that the test did not cause")
				x.waitRandomly()
				if x.lose(func(node int) { f.breaking(x, node) }, func(node int) { f.mending(x, node) }) {
					times--
				}
			}
			x.finish(f.name, fmt.Sprintf("; another node took over the vendor %d times", len(x.vendor.calledSince(time.Time{}))-1))
		})
	}
}
