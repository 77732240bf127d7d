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
	trialMount   = "faults"
	trialReaders = 20
	hastyOnes    = 30 // credentials whose tokens live for seconds
	lastingOnes  = 2  // and for longer than any trial
)

// A trial is a mount with credentials of a rotating vendor, under readers, where one
// fault after the other happens.
type trial struct {
	*crowd
	t       *testing.T
	rng     *rand.Rand
	clients []*api.Client // by node
	hasty   []string      // names of credentials
	lasting map[string]any

	orderly   bool // whether the faults are such that the engine can finish what it does
	disturbed bool // whether nodes failed that the test did not touch, and reads with them

	faults []time.Time // that may keep the engine from writing what it is answered
	hits   int         // exchanges that were in flight as a fault began
	row    tally.Row
}

// newTrial enables the engine by way of the first node. A read fails after the timeout.
func newTrial(t *testing.T, world *world, clients []*api.Client, vendor *rotator, timeout time.Duration) *trial {
	t.Helper()
	x := &trial{
		crowd: &crowd{troubles: vendor.troubles, vendor: vendor, world: world, timeout: timeout},
		t:     t, rng: tally.Rand(t), clients: clients, lasting: map[string]any{},
	}
	require.NoError(t, clients[0].Sys().MountWithContext(t.Context(), trialMount, &api.MountInput{
		Type: pluginName, Config: api.MountConfigInput{PluginVersion: world.version},
	}))
	names := make([]string, 0, hastyOnes+lastingOnes)
	add := func(name string, lifetime time.Duration) {
		x.write(name, lifetime)
		names = append(names, name)
	}
	for i := range hastyOnes {
		x.hasty = append(x.hasty, fmt.Sprint("hasty-", i))
		add(x.hasty[i], hasty)
	}
	for i := range lastingOnes {
		name := fmt.Sprint("lasting-", i)
		add(name, lasting)
		x.lasting[name] = x.token(0, name)
	}
	x.read(t, trialReaders, x.rng, trialMount, names, clients)
	return x
}

// write writes a credential with a new refresh token, as an operator does who has none
// or one that is lost.
func (x *trial) write(name string, lifetime time.Duration) {
	x.t.Helper()
	_, err := x.clients[x.serving()].Logical().WriteWithContext(x.t.Context(), trialMount+"/config/oauth2/"+name, x.vendor.issue(name, lifetime))
	require.NoError(x.t, err)
}

// serving is a node without trouble.
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

// aMoment waits until a random moment: any at all, or one at which an exchange is in
// flight or has just been answered.
func (x *trial) aMoment() {
	if x.rng.IntN(3) > 0 {
		x.vendor.awaitCall(2 * hasty)
		time.Sleep(time.Duration(x.rng.Int64N(int64(answerTime * 4 / 3))))
		return
	}
	time.Sleep(time.Duration(x.rng.Int64N(int64(time.Second / 2))))
}

// suffer has something break on some nodes, and waits until they are back.
//
// A node is back when it has answered one read of a status, asked for after the fault
// was over (the killed process gone, the server unsealed, the cluster of one mind). It
// needs the plugin and calls no vendor. Whatever is read through the node from then on
// has no reason to fail, until the next fault begins.
func (x *trial) suffer(breaking func(), nodes ...int) {
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
	for name, token := range x.lasting {
		for _, node := range nodes {
			assert.Equal(x.t, token, x.token(node, name), "%s by %s", name, nodeName(node))
		}
	}
	x.mend()
}

func (x *trial) awaitBack(node int) {
	x.t.Helper()
	awaitRead(x.t, x.clients[node], trialMount+"/status/"+x.hasty[0])
	x.end(nodeName(node))
}

// mend gives each credential that was lost a new refresh token, as an operator would.
func (x *trial) mend() {
	x.t.Helper()
	for _, name := range x.vendor.newLosses() {
		x.write(name, hasty)
		x.end(name)
	}
}

// finish waits until every credential has been exchanged since the last fault, or was
// found lost, and counts.
func (x *trial) finish(name, note string) {
	x.t.Helper()
	last := time.Now()
	for _, credential := range x.hasty {
		require.Eventually(x.t, func() bool { return x.vendor.isFreshSince(credential, last) }, patience, 20*time.Millisecond, "%s is not exchanged", credential)
	}
	x.mend()
	x.halt()
	lost, unwritten := x.judge()
	x.row.Fault, x.row.Dead, x.row.Lost, x.row.Failed = name, len(x.dead), len(lost), len(x.failed)
	x.row.Note = fmt.Sprintf("%d exchanges were in flight then; %d refresh tokens were replaced by the vendor and not written yet "+
		"(%d of them answered, %d ms before at the most), which only an operator can mend; %d reads, %d failed meanwhile%s",
		x.hits, unwritten.losses, unwritten.answered, unwritten.latest.Milliseconds(), x.reads, x.excused, note)
	if x.disturbed {
		x.t.Logf("failed in elections that the test did not cause: %v", x.failed)
		x.failed = nil
	}
	for what, list := range map[string][]string{"dead": x.dead, "failed": x.failed, "lost": lost} {
		assert.Empty(x.t, list[:min(len(list), 10)], what)
	}
	assert.Empty(x.t, x.vendor.wrongs[:min(len(x.vendor.wrongs), 10)], "what the vendor saw")
	x.world.assertNoSecretLeft(x.t, x.vendor.Sim)
	tally.Record(x.t, x.row)
}

// judge tells the credentials that were lost from those that nothing could have saved:
// the vendor had replaced the refresh token, and a fault came before the engine had
// written that. It had if a reader had the access token of the same answer, or if the
// answer was long under way when the fault came.
func (x *trial) judge() (lost []string, u unwritten) {
	v := x.vendor
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.losses {
		var says []string
		late := 0
		for _, a := range l.unused {
			after, explained := x.explains(a)
			switch {
			case a.served:
				says = append(says, "a reader had been served from the answer of "+a.answered.Format(clock))
			case !explained:
				says = append(says, "no fault explains why the answer of "+a.answered.Format(clock)+" was not written")
			}
			if after > 0 {
				late++
			}
			u.latest = max(u.latest, after)
		}
		if len(says) > 0 {
			lost = append(lost, l.credential+": "+strings.Join(says, ", "))
			continue
		}
		u.losses++
		u.answered += late
	}
	return lost, u
}

// unwritten counts what nothing could have saved: those losses, the answers among them
// that the vendor had sent when the fault came, and how long before at the most.
type unwritten struct {
	losses, answered int
	latest           time.Duration
}

// explains is whether a fault came between a call, which may have been on its way for a
// while, and the writing of the answer, and how long after the answer.
func (x *trial) explains(a *answer) (after time.Duration, explained bool) {
	for _, fault := range x.faults {
		if fault.After(a.asked.Add(-machineLag)) && fault.Before(a.answered.Add(machineLag)) {
			return fault.Sub(a.answered), true
		}
	}
	return 0, false
}
