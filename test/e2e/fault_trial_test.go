//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
)

const (
	trialMount      = "faults"
	trialReaders    = 20
	shortLivedCount = 30 // credentials whose tokens expire within seconds
	longLivedCount  = 2  // credentials whose tokens outlast any trial
)

// trial is a mount with credentials of a vendor that rotates refresh tokens. Readers read its
// tokens while faults happen one after the other.
type trial struct {
	*crowd
	t          *testing.T
	rng        *rand.Rand
	clients    []*api.Client // by node
	shortLived []string      // names of credentials
	longLived  map[string]any

	orderly   bool // whether the faults let the engine finish its writes
	disturbed bool // whether there were elections that the test did not cause

	faults []time.Time // times of faults that may keep the engine from storing an answer
	hits   int         // exchanges in flight when a fault began
	row    tally.Row
}

// newTrial enables the engine through the first node and starts the readers. A read fails after
// the timeout.
func newTrial(t *testing.T, world *world, clients []*api.Client, vendor *rotator, timeout time.Duration) *trial {
	t.Helper()
	x := &trial{
		crowd: &crowd{troubles: vendor.troubles, vendor: vendor, world: world, timeout: timeout},
		t:     t, rng: tally.Rand(t), clients: clients, longLived: map[string]any{},
	}
	require.NoError(t, clients[0].Sys().MountWithContext(t.Context(), trialMount, &api.MountInput{
		Type: pluginName, Config: api.MountConfigInput{PluginVersion: world.version},
	}))
	names := make([]string, 0, shortLivedCount+longLivedCount)
	add := func(name string, lifetime time.Duration) {
		x.write(name, lifetime)
		names = append(names, name)
	}
	for i := range shortLivedCount {
		x.shortLived = append(x.shortLived, fmt.Sprint("short-lived-", i))
		add(x.shortLived[i], shortLifetime)
	}
	for i := range longLivedCount {
		name := fmt.Sprint("long-lived-", i)
		add(name, longLifetime)
		x.longLived[name] = x.token(0, name)
	}
	x.read(t, trialReaders, x.rng, trialMount, names, clients)
	return x
}

// write writes a credential with a new refresh token, as an operator does at first and after a
// loss.
func (x *trial) write(name string, lifetime time.Duration) {
	x.t.Helper()
	_, err := x.clients[x.serving()].Logical().WriteWithContext(x.t.Context(), trialMount+"/config/oauth2/"+name, x.vendor.issue(name, lifetime))
	require.NoError(x.t, err)
}

// serving returns a node without trouble.
func (x *trial) serving() int {
	for node := range x.clients {
		if !x.watch(nodeName(node))() {
			return node
		}
	}
	return 0
}

func (x *trial) token(node int, name string) any {
	x.t.Helper()
	secret, err := x.clients[node].Logical().ReadWithContext(x.t.Context(), trialMount+"/token/"+name)
	require.NoError(x.t, err)
	return secret.Data["access_token"]
}

// waitRandomly waits until a random time. Two thirds of the times are during an exchange or just after
// its answer.
func (x *trial) waitRandomly() {
	if x.rng.IntN(3) > 0 {
		x.vendor.awaitCall(2 * shortLifetime)
		time.Sleep(time.Duration(x.rng.Int64N(int64(answerTime * 4 / 3))))
		return
	}
	time.Sleep(time.Duration(x.rng.Int64N(int64(time.Second / 2))))
}

// breakNodes breaks something on some nodes, and waits until they are back.
//
// A node is back when it answers a read of a status after the fault is over: the killed process is
// gone, the server is unsealed, or the cluster has agreed on a leader. Such a read needs the plugin
// and calls no vendor. From then on, reads through the node must succeed until the next fault.
func (x *trial) breakNodes(breaking func(), nodes ...int) {
	x.t.Helper()
	for _, node := range nodes {
		x.begin(nodeName(node))
	}
	x.hits += x.vendor.calls()
	if !x.orderly {
		x.faults = append(x.faults, time.Now())
	}
	x.vendor.breaking()
	breaking()
	for _, node := range nodes {
		x.awaitBack(node)
	}
	x.row.Tried++
	for name, token := range x.longLived {
		for _, node := range nodes {
			assert.Equal(x.t, token, x.token(node, name), "%s by %s", name, nodeName(node))
		}
	}
	x.rewriteLost()
}

func (x *trial) awaitBack(node int) {
	x.t.Helper()
	awaitRead(x.t, x.clients[node], trialMount+"/status/"+x.shortLived[0])
	x.end(nodeName(node))
}

// rewriteLost writes a new refresh token to each lost credential, as an operator would.
func (x *trial) rewriteLost() {
	x.t.Helper()
	for _, name := range x.vendor.newLosses() {
		x.write(name, shortLifetime)
		x.end(name)
	}
}

// finish waits until every credential has been exchanged since the last fault, or is known as
// lost. It then checks and records the results.
func (x *trial) finish(name, note string) {
	x.t.Helper()
	last := time.Now()
	for _, credential := range x.shortLived {
		require.Eventually(x.t, func() bool { return x.vendor.isFreshSince(credential, last) }, patience, 20*time.Millisecond, "%s is not exchanged", credential)
	}
	x.rewriteLost()
	x.stopReaders()
	lost, unwritten := x.classifyLosses()
	x.row.Fault, x.row.Invalid, x.row.Lost, x.row.Failed = name, len(x.expired), len(lost), len(x.failed)
	x.row.Note = fmt.Sprintf("%d exchanges were in flight; %d refresh tokens were rotated by the vendor and not stored yet "+
		"(%d of them answered, at most %d ms before the fault), which only an operator can fix; %d reads, %d failed during a fault%s",
		x.hits, unwritten.losses, unwritten.answered, unwritten.latest.Milliseconds(), x.reads, x.excused, note)
	if x.disturbed {
		x.t.Logf("failed in elections that the test did not cause: %v", x.failed)
		x.failed = nil
	}
	for what, list := range map[string][]string{"expired": x.expired, "failed": x.failed, "lost": lost} {
		assert.Empty(x.t, list[:min(len(list), 10)], what)
	}
	assert.Empty(x.t, x.vendor.wrongs[:min(len(x.vendor.wrongs), 10)], "wrong requests that the vendor received")
	x.world.assertNoSecretLeft(x.t, x.vendor.Sim)
	tally.Record(x.t, x.row)
}

// classifyLosses separates lost credentials from unavoidable losses, in which a fault came after
// the vendor had rotated the refresh token and before the engine could store the new one. A loss
// was avoidable if a reader got the access token of the same answer, or if no fault came close to
// the answer.
func (x *trial) classifyLosses() (lost []string, u unwritten) {
	v := x.vendor
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.losses {
		var reasons []string
		late := 0
		for _, a := range l.unused {
			after, explained := x.explains(a)
			switch {
			case a.served:
				reasons = append(reasons, "a reader got the token of the answer at "+a.answered.Format(clock))
			case !explained:
				reasons = append(reasons, "no fault explains why the answer at "+a.answered.Format(clock)+" was not stored")
			}
			if after > 0 {
				late++
			}
			u.latest = max(u.latest, after)
		}
		if len(reasons) > 0 {
			lost = append(lost, l.credential+": "+strings.Join(reasons, "; "))
			continue
		}
		u.losses++
		u.answered += late
	}
	return lost, u
}

// unwritten counts the unavoidable losses, the answers among them that the vendor had sent before
// the fault, and the longest time between such an answer and the fault.
type unwritten struct {
	losses, answered int
	latest           time.Duration
}

// explains reports whether a fault came between a call and the write of its answer, with an
// allowance for a busy machine, and how long after the answer it came.
func (x *trial) explains(a *answer) (after time.Duration, explained bool) {
	for _, fault := range x.faults {
		if fault.After(a.asked.Add(-machineLag)) && fault.Before(a.answered.Add(machineLag)) {
			return fault.Sub(a.answered), true
		}
	}
	return 0, false
}
