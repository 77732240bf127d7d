//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// Each pluginKills kills of the plugin are followed by one of the server.
	pluginKills = 7

	// lostByVendor is the kind of credentials that a kill can lose, as docs/rotation.md says.
	lostByVendor = "gitlab-token"
)

// A rotationTrial rotates the secrets of credentials of all kinds, and kills the plugin or the server meanwhile.
type rotationTrial struct {
	t       *testing.T
	own     *world
	client  *api.Client // without retries, which would hide a failure
	rng     *rand.Rand
	vendors *orderlyVendors
	rotated []rotatedCredential

	kills       map[string]int // by what was killed, and where
	interrupted int            // rotations that were in flight at a kill
	lost        []string
}

// A rotatedCredential is a credential whose secret its simulated vendor replaces.
type rotatedCredential struct{ kind, vendor, name string }

func newRotationTrial(t *testing.T) *rotationTrial {
	t.Helper()
	sim := vendorsim.New()
	vendors := newOrderlyVendors(sim)
	own := rotationWorld(t, vaultserver.StartRaft, vendors)
	x := &rotationTrial{t: t, own: own, client: own.root, rng: tally.Rand(t), vendors: vendors, kills: map[string]int{}}
	x.client.SetMaxRetries(0)
	for _, kind := range vendorsim.RotatingKinds() {
		if kind == lostByVendor {
			continue
		}
		c := rotatedCredential{kind: kind, name: strings.ReplaceAll(kind, "/", "-")}
		vendor, fields := sim.AddRotating(kind, c.name)
		c.vendor = vendor
		require.NoError(t, x.write("config/"+vendor+"/"+c.name, fields))
		x.rotated = append(x.rotated, c)
	}
	sim.Behave(vendorsim.Conduct{Latency: vendorLatency})
	return x
}

func (x *rotationTrial) write(path string, data map[string]any) error {
	_, err := x.client.Logical().WriteWithContext(context.WithoutCancel(x.t.Context()), rotationMount+"/"+path, data)
	return err
}

func (x *rotationTrial) rotate(c rotatedCredential, data map[string]any) error {
	return x.write("config/"+c.vendor+"/"+c.name+"/rotate", data)
}

// begin rotates secrets, and returns a channel with an element for each that has ended. Some may have failed.
func (x *rotationTrial) begin(all ...rotatedCredential) <-chan struct{} {
	ended := make(chan struct{}, len(all))
	for _, c := range all {
		go func() {
			_ = x.rotate(c, nil) // what counts is the state after it
			ended <- struct{}{}
		}()
	}
	return ended
}

// status returns the rotation in the status of a credential.
func (x *rotationTrial) status(c rotatedCredential) map[string]any {
	x.t.Helper()
	secret, err := x.client.Logical().ReadWithContext(x.t.Context(), rotationMount+"/status/"+c.name)
	require.NoError(x.t, err)
	rotation, _ := secret.Data["rotation"].(map[string]any)
	return rotation
}

// Guarantees 3 and 10: given a kill of the plugin or of the server at a random time of a rotation, the stored secret is
// one that the vendor accepts, the engine completes the rotation, and nothing is left at the vendor.
func TestFaultRotationKilled(t *testing.T) {
	t.Parallel()
	x := newRotationTrial(t)
	for i := 0; x.interrupted < tally.Times(40, 300); i++ {
		require.Less(t, i, 1000, "too few rotations were in flight at a kill: %v", x.kills)
		c := x.rotated[i%len(x.rotated)]
		began := time.Now().Truncate(time.Second)
		if x.killDuring(c) {
			x.assertInUse(c)
		}
		x.complete(c, began)
		x.assertInUse(c)
	}
	completed := x.killDuringAll()
	orphans := x.orphans()
	for _, what := range []string{"plugin " + beforeVendor, "plugin " + atVendor, "plugin " + betweenRequests, "plugin " + whileStoring} {
		assert.Positive(t, x.kills[what], what)
	}
	assert.Positive(t, completed, "rotations that the background work has completed")
	assert.Empty(t, x.lost, "lost")
	assert.Zero(t, orphans, "secrets at the vendors that nothing uses")
	assert.Empty(t, x.vendors.Violations(), "requests that no vendor documents")
	x.own.assertNoSecretLeft(t, x.vendors.Sim)
	tally.Record(t, tally.Row{
		Fault: "plugin or server killed (kill -9) during a rotation", Tried: x.interrupted, Lost: len(x.lost),
		Note: fmt.Sprintf("secrets of %d kinds at the vendors; %s; %d rotations completed in the background; %d secrets left at the vendors", len(x.rotated), x.places(), completed, orphans),
	})
}

// places returns the counts of kills by what was killed, and where.
func (x *rotationTrial) places() string {
	var counts []string
	for _, where := range slices.Sorted(maps.Keys(x.kills)) {
		counts = append(counts, fmt.Sprintf("%s: %d", where, x.kills[where]))
	}
	return strings.Join(counts, ", ")
}

// killDuring rotates a secret, and kills the plugin or the server at a random time. It reports whether the rotation was
// in flight then.
func (x *rotationTrial) killDuring(c rotatedCredential) bool {
	x.t.Helper()
	x.vendors.reset()
	done := x.begin(c)
	isWriting := x.waitRandomly(func() bool { return len(done) > 0 })
	if len(done) > 0 {
		return false // too late
	}
	where := x.vendors.place(isWriting)
	if x.interrupted%(pluginKills+1) == pluginKills {
		x.killServer()
		where = "server " + where
	} else {
		x.vendors.breaking()
		killed, err := x.own.server.KillPlugins()
		require.NoError(x.t, err)
		assert.Equal(x.t, 1, killed, "one process for all mounts")
		where = "plugin " + where
	}
	x.kills[where]++
	x.interrupted++
	<-done // the server may have repeated the request
	awaitRead(x.t, x.client, rotationMount+"/status/"+c.name)
	return true
}

func (x *rotationTrial) killServer() {
	x.t.Helper()
	x.vendors.breaking()
	require.NoError(x.t, x.own.server.Kill())
	require.NoError(x.t, x.own.server.Start(x.t.Context()))
}

// waitRandomly waits until a random time of a rotation, or its end. isWriting reports whether the server is writing
// then.
func (x *rotationTrial) waitRandomly(isDone func() bool) (isWriting bool) {
	requests := x.rng.IntN(6)
	storage := newStorageWatch(x.own.server)
	isReached := func() bool { return true }
	lag := time.Duration(0)
	switch x.rng.IntN(4) {
	case 0:
		lag = time.Duration(x.rng.Int64N(int64(20 * time.Millisecond)))
	case 1:
		isReached = func() bool { return x.vendors.begun.Load() > int64(requests) }
		lag = time.Duration(x.rng.Int64N(int64(vendorLatency)))
	case 2:
		isReached = func() bool { return x.vendors.answered.Load() > int64(requests) }
		lag = time.Duration(x.rng.Int64N(int64(10 * time.Millisecond)))
	case 3:
		isReached = func() bool {
			if x.vendors.answered.Load() < int64(requests) {
				storage = newStorageWatch(x.own.server)
				return false
			}
			isWriting = storage.hasChanged()
			return isWriting
		}
	}
	for !isReached() && !isDone() {
		time.Sleep(100 * time.Microsecond)
	}
	time.Sleep(lag)
	return isWriting
}

// complete rotates again what the kill has left half done, until the secret is one that is issued since.
func (x *rotationTrial) complete(c rotatedCredential, since time.Time) {
	x.t.Helper()
	for range 3 {
		status := x.status(c)
		rotated, _ := time.Parse(time.RFC3339, fmt.Sprint(status["last_vault_rotation"]))
		if status["pending_since"] == nil && status["last_error"] == nil && !rotated.Before(since) {
			return
		}
		require.NoError(x.t, x.rotate(c, nil), c.kind)
	}
	x.t.Errorf("%s: the rotation is not completed: %v", c.kind, x.status(c))
}

// assertInUse checks that the vendor accepts the stored secret, and that readers get a valid token.
func (x *rotationTrial) assertInUse(c rotatedCredential) {
	x.t.Helper()
	secret, err := x.client.Logical().ReadWithContext(x.t.Context(), rotationMount+"/creds/"+c.name)
	require.NoError(x.t, err, "%s: a read", c.kind)
	if err := x.write("refresh/"+c.name, nil); err != nil {
		x.lost = append(x.lost, fmt.Sprintf("%s: %v", c.kind, err))
	}
	assert.NotEmpty(x.t, secret.Data["access_token"], c.kind)
}

// killDuringAll rotates all secrets at once, kills the server meanwhile, and waits until the background work of the
// engine has completed the rotations. It returns how many there were. The vendors are slow, so that there are some.
func (x *rotationTrial) killDuringAll() (completed int) {
	x.t.Helper()
	x.vendors.Behave(vendorsim.Conduct{Latency: 25 * vendorLatency})
	x.vendors.reset()
	done := x.begin(x.rotated...)
	for x.vendors.answered.Load() < int64(3*len(x.rotated)) && len(done) < len(x.rotated) {
		time.Sleep(time.Millisecond)
	}
	inFlight := len(x.rotated) - len(done)
	x.killServer()
	x.vendors.Behave(vendorsim.Conduct{})
	x.kills["server with all in flight"]++
	x.interrupted += inFlight
	for range x.rotated {
		<-done
	}
	isPending := func(c rotatedCredential) bool { return x.status(c)["pending_since"] != nil }
	for _, c := range x.rotated {
		if isPending(c) {
			completed++
		}
	}
	for _, c := range x.rotated {
		require.Eventually(x.t, func() bool { return !isPending(c) }, patience, 500*time.Millisecond, "%s: %v", c.kind, x.status(c))
		assert.Empty(x.t, x.status(c)["last_error"], c.kind)
		x.assertInUse(c)
	}
	return completed
}

// orphans removes the former secrets, and returns how many more the vendors store than the engine does.
func (x *rotationTrial) orphans() (count int) {
	x.t.Helper()
	for _, c := range x.rotated {
		require.NoError(x.t, x.rotate(c, map[string]any{"rotation_grace": 0}), c.kind)
		x.assertInUse(c)
		own := 1
		if c.kind == "datadog" { // an API key and an application key
			own = 2
		}
		stored := x.vendors.StoredSecrets(c.kind, c.name)
		assert.Len(x.t, stored, own, c.kind)
		count += len(stored) - own
	}
	return count
}
