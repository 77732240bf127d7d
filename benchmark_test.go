package tokenbroker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// benched is a mount of the engine without the checks of the test harness, which would cost
// more than the code that is measured.
type benched struct {
	tb      testing.TB
	sim     *vendorsim.Sim
	storage logical.Storage
	backend logical.Backend
}

func newBenched(tb testing.TB, credentials int) *benched {
	tb.Helper()
	e := &benched{tb: tb, sim: vendorsim.New(), storage: &logical.InmemStorage{}}
	e.sim.AddAPIKey(engine.APIKey)
	e.sim.Forgetful()
	e.restart()
	for i := range credentials {
		e.request(logical.CreateOperation, "config/sitecore/"+benchedName(i), map[string]any{"api_key": engine.APIKey})
	}
	return e
}

func (e *benched) restart() {
	e.tb.Helper()
	e.backend = tokenbroker.New(tokenbroker.Options{Transport: e.sim.Transport()})
	require.NoError(e.tb, e.backend.Setup(context.Background(), &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		System:      &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour, ReplicationStateVal: engine.Unreplicated},
		StorageView: e.storage,
	}))
}

func (e *benched) request(op logical.Operation, path string, data map[string]any) {
	resp, err := e.backend.HandleRequest(context.Background(), &logical.Request{Operation: op, Path: path, Data: data, Storage: e.storage})
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		e.tb.Errorf("%s: %v", path, err)
	}
}

func (e *benched) read(path string) { e.request(logical.ReadOperation, path, nil) }

func benchedName(i int) string { return fmt.Sprintf("c%05d", i) }

func TestGuarantee12ACachedReadAllocatesNoMoreAmongManyNames(t *testing.T) {
	perRead := func(names int, family string) float64 {
		e := newBenched(t, names)
		path := family + "/" + benchedName(names/2)
		e.read(path)
		return testing.AllocsPerRun(200, func() { e.read(path) })
	}
	for _, family := range []string{"creds", "token"} {
		assert.InDelta(t, perRead(1, family), perRead(1000, family), 1, family)
	}
}

// BenchmarkCachedRead measures a read of a cached token: of one name and of many, by one
// reader and by readers on all cores.
func BenchmarkCachedRead(b *testing.B) {
	for _, family := range []string{"creds", "token"} {
		for _, names := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("%s/names=%d", family, names), func(b *testing.B) {
				e := newBenched(b, names)
				paths := make([]string, names)
				for i := range paths {
					paths[i] = family + "/" + benchedName(i)
					e.read(paths[i])
				}
				b.Run("on its own", func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						e.read(paths[rand.IntN(names)])
					}
				})
				b.Run("all-cores", func(b *testing.B) {
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							e.read(paths[rand.IntN(names)])
						}
					})
				})
			})
		}
	}
}

// BenchmarkExchange measures the engine's own share of an exchange: the vendor answers at
// once, and storage is in memory.
func BenchmarkExchange(b *testing.B) {
	e := newBenched(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		e.request(logical.UpdateOperation, "refresh/"+benchedName(0), nil)
	}
}

// BenchmarkFirstRead measures the first read after a restart, which loads only its own name.
func BenchmarkFirstRead(b *testing.B) {
	for _, names := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("names=%d", names), func(b *testing.B) {
			e := newBenched(b, names)
			b.ReportAllocs()
			for b.Loop() {
				e.restart()
				e.read("creds/" + benchedName(names/2))
			}
		})
	}
}
