package tokenbroker_test

import (
	"context"
	"crypto"
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

var scaleReaders = flag.Int("scale-readers", 300, "the number of readers whose cost is compared with that of names")

// A population is a mount of the engine with many people, whose tokens are either those of one role, by the
// identity of the reader, or of a credential for each.
type population struct {
	*benched
	disk   *engine.FaultyStorage
	people int
	byRole bool
}

// entities is a system view in which each entity is a person.
type entities struct{ *logical.StaticSystemView }

func (entities) EntityInfo(id string) (*logical.Entity, error) {
	return &logical.Entity{ID: id, Name: id}, nil
}

func personName(i int) string { return fmt.Sprintf("person-%05d", i) }

func newPopulation(tb testing.TB, people int, byRole bool) *population {
	tb.Helper()
	disk := &engine.FaultyStorage{Storage: &logical.InmemStorage{}}
	p := &population{benched: &benched{tb: tb, sim: vendorsim.New(), storage: disk}, disk: disk, people: people, byRole: byRole}
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Keys: map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}, Scopes: []string{"read"}, Grants: []string{vendorsim.JWTBearerGrant},
	}
	for i := range people {
		client.Subjects = append(client.Subjects, personName(i))
	}
	p.sim.AddOAuthClient(client)
	p.sim.Forgetful()
	p.start()
	fields := map[string]any{
		"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "grant_type": "jwt_bearer",
		"scope": "read", "verify": false, "max_variants": people,
	}
	if byRole {
		p.request(logical.CreateOperation, "config/oauth2/service", fields)
		p.request(logical.CreateOperation, "roles/me", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.name}}"})
		return p
	}
	for i := range people {
		fields["assertion_subject"] = personName(i)
		p.request(logical.CreateOperation, "config/oauth2/"+personName(i), fields)
	}
	return p
}

func (p *population) start() {
	p.backend = tokenbroker.New(tokenbroker.Options{Transport: p.sim.Transport()})
	require.NoError(p.tb, p.backend.Setup(context.Background(), &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		System:      entities{&logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour, ReplicationStateVal: engine.Unreplicated}},
		StorageView: p.storage,
	}))
}

// readAs reads the token of a person.
func (p *population) readAs(i int) {
	req := &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + personName(i), EntityID: personName(i), Storage: p.storage}
	if p.byRole {
		req.Path = "creds/me"
	}
	resp, err := p.backend.HandleRequest(context.Background(), req)
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		p.tb.Errorf("%s: %v", personName(i), err)
	}
}

func (p *population) readAll() {
	for i := range p.people {
		p.readAs(i)
	}
}

func (p *population) sweep() {
	_, err := p.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: p.storage})
	require.NoError(p.tb, err)
}

// A cost is what an activity of a population costs.
type cost struct {
	exchanges, reads, writes int // of storage, lists included
	allocated                float64
	time                     time.Duration
}

// costOf returns the cost of an activity.
func (p *population) costOf(f func()) cost {
	calls, exchanges := len(p.disk.Calls()), p.sim.Count()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	f()
	c := cost{time: time.Since(began)}
	runtime.ReadMemStats(&after)
	c.allocated, c.exchanges = float64(after.Mallocs-before.Mallocs), p.sim.Count()-exchanges
	for _, call := range p.disk.Calls()[calls:] {
		switch {
		case call.Key == "probe":
		case call.Writes():
			c.writes++
		default:
			c.reads++
		}
	}
	return c
}

// heap returns the memory in use.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// TestAReaderOfARoleCostsWhatANameCosts compares the readers of one role that depends on the reader with as
// many names, in one run: exchanges, storage and allocations, which do not depend on the machine.
func TestAReaderOfARoleCostsWhatANameCosts(t *testing.T) {
	measure := func(byRole bool) map[string]cost {
		before := heap()
		p := newPopulation(t, *scaleReaders, byRole)
		written := p.costOf(func() {}).writes
		for _, call := range p.disk.Calls() {
			if call.Writes() && call.Key != "probe" {
				written++
			}
		}
		costs := map[string]cost{"written": {writes: written}}
		costs["first reads"] = p.costOf(p.readAll)
		costs["cached reads"] = p.costOf(p.readAll)
		p.sweep() // lists the names
		costs["memory"] = cost{allocated: heap() - before}
		costs["sweep"] = p.costOf(p.sweep)
		p.start()
		costs["first sweep"] = p.costOf(p.sweep)
		costs["status"] = p.costOf(func() { p.request(logical.ReadOperation, "metrics", map[string]any{"names": "all"}) })
		if !byRole {
			runtime.KeepAlive(p)
			return costs
		}
		costs["write"] = p.costOf(func() {
			p.request(logical.UpdateOperation, "config/oauth2/service", map[string]any{"max_ttl": "30m", "verify": false})
		})
		costs["reads after a write"] = p.costOf(p.readAll)
		costs["refresh"] = p.costOf(func() { p.request(logical.UpdateOperation, "refresh/service", nil) })
		runtime.KeepAlive(p)
		return costs
	}
	n := float64(*scaleReaders)
	names, readers := measure(false), measure(true)
	for _, what := range []string{"first reads", "cached reads", "sweep", "first sweep", "status", "memory", "reads after a write", "write", "refresh"} {
		a, b := names[what], readers[what]
		t.Logf("%-20s names: %5.2f exchanges, %5.2f storage reads, %5.2f writes, %8.0f allocations (bytes of memory), %9s each; readers: %5.2f, %5.2f, %5.2f, %8.0f, %9s; allocations %.2f, time %.2f", what,
			float64(a.exchanges)/n, float64(a.reads)/n, float64(a.writes)/n, a.allocated/n, a.time/time.Duration(n),
			float64(b.exchanges)/n, float64(b.reads)/n, float64(b.writes)/n, b.allocated/n, b.time/time.Duration(n), b.allocated/a.allocated, float64(b.time)/float64(a.time))
	}
	first, firstOfNames := readers["first reads"], names["first reads"]
	assert.Equal(t, firstOfNames.exchanges, first.exchanges)
	assert.LessOrEqual(t, first.writes+readers["written"].writes, firstOfNames.writes+names["written"].writes+5, "a variant has an entry, as a credential has")
	assert.LessOrEqual(t, first.reads, firstOfNames.reads+*scaleReaders+5, "a variant is looked for before it is written; besides, the credential of the role is read once")
	assert.LessOrEqual(t, first.allocated, 1.5*firstOfNames.allocated)
	for _, what := range []string{"cached reads", "sweep"} {
		assert.Zero(t, readers[what].reads+readers[what].writes+readers[what].exchanges, "%s: guarantee 12", what)
	}
	assert.LessOrEqual(t, readers["cached reads"].allocated, 3*names["cached reads"].allocated)
	assert.LessOrEqual(t, readers["sweep"].allocated, 1.5*names["sweep"].allocated+n)
	assert.LessOrEqual(t, readers["status"].allocated, names["status"].allocated, "people are counted, and not listed")
	assert.LessOrEqual(t, readers["first sweep"].reads, names["first sweep"].reads+5)
	assert.LessOrEqual(t, readers["memory"].allocated, 1.2*names["memory"].allocated)
	assert.LessOrEqual(t, readers["write"].reads+readers["write"].writes, 50, "a write does not look at each variant in storage")
	assert.Equal(t, *scaleReaders, readers["reads after a write"].exchanges)
	assert.LessOrEqual(t, readers["refresh"].exchanges, 1, "the readers exchange when they read")
}

// BenchmarkCachedReadOfAReader measures a cached read of one of many people, by name and by role.
func BenchmarkCachedReadOfAReader(b *testing.B) {
	for _, byRole := range []bool{false, true} {
		b.Run(fmt.Sprintf("by role=%t", byRole), func(b *testing.B) {
			p := newPopulation(b, 100, byRole)
			p.readAll()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.readAs(i % p.people)
			}
		})
	}
}
