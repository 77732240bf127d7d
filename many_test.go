package tokenbroker_test

import (
	"context"
	"flag"
	"runtime"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

var manyNames = flag.Int("many-names", 100_000, "the number of credentials whose memory is measured; a tenth of it with -short")

// fillStorage stores credentials of Sitecore that nothing has read.
func fillStorage(tb testing.TB, credentials int) *benched {
	tb.Helper()
	e := newBenched(tb, 0)
	e.request(logical.CreateOperation, "config/sitecore/c", map[string]any{"api_key": engine.APIKey, "verify": false})
	entry, err := e.storage.Get(tb.Context(), "config/sitecore/c")
	require.NoError(tb, err)
	for i := range credentials { // a request would list all names
		require.NoError(tb, e.storage.Put(tb.Context(), &logical.StorageEntry{Key: "config/sitecore/" + benchedName(i), Value: entry.Value}))
	}
	require.NoError(tb, e.storage.Delete(tb.Context(), "config/sitecore/c"))
	e.restart()
	return e
}

func (e *benched) tick() {
	e.tb.Helper()
	_, err := e.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage})
	require.NoError(e.tb, err)
}

func (e *benched) respond(op logical.Operation, path string) *logical.Response {
	e.tb.Helper()
	resp, err := e.backend.HandleRequest(context.Background(), &logical.Request{Operation: op, Path: path, Storage: e.storage})
	require.NoError(e.tb, err)
	return resp
}

// TestManyNamesTakeLittleMemory measures a mount with many credentials of which 1 % are read.
func TestManyNamesTakeLittleMemory(t *testing.T) {
	names := *manyNames
	if testing.Short() {
		names /= 10
	}
	e := fillStorage(t, names)
	before := heap()
	for i := range names / 100 {
		e.read("token/" + benchedName(i*100))
	}
	disk := &engine.FaultyStorage{Storage: e.storage}
	e.storage = disk
	for last := -1; len(disk.Calls()) > last; { // until each name was read once
		last = len(disk.Calls())
		e.tick()
	}
	disk.Forgetful = true
	calls := len(disk.Calls())
	disk.Reset()
	perName := (heap() - before) / float64(names)
	t.Logf("%.0f bytes for each of %d names, and %d calls of storage at the start", perName, names, calls)
	assert.Less(t, perName, 150.0*(1<<20)/100_000/2, "the garbage collector lets the heap grow to twice of what is live")

	disk.Forgetful = false
	e.tick()
	assert.Empty(t, disk.Calls(), "a sweep with nothing due reads nothing")
	text := e.respond(logical.ReadOperation, "metrics").Data[logical.HTTPRawBody].([]byte)
	assert.Less(t, len(text), 32<<10, "the metrics do not grow with the names")
	statuses := e.respond(logical.ListOperation, "status/").Data["keys"].([]string)
	assert.Len(t, statuses, names)
	for _, call := range disk.Calls() {
		assert.Equal(t, "list", call.Op, "%s: a list of the statuses reads no entry", call.Key)
	}
	runtime.KeepAlive(statuses)
	assert.InDelta(t, perName, (heap()-before)/float64(names), 100, "neither stays in memory")
	runtime.KeepAlive(e)
}

// BenchmarkIdleSweep measures a sweep over many names of which 1 % are in use and none is due.
func BenchmarkIdleSweep(b *testing.B) {
	e := fillStorage(b, *manyNames)
	for i := range *manyNames / 100 {
		e.read("token/" + benchedName(i*100))
	}
	disk := &engine.FaultyStorage{Storage: e.storage}
	e.storage = disk
	for last := -1; len(disk.Calls()) > last; {
		last = len(disk.Calls())
		e.tick()
	}
	b.ReportAllocs()
	for b.Loop() {
		e.tick()
	}
}

// BenchmarkManyNames measures what reads the state of many names at once.
func BenchmarkManyNames(b *testing.B) {
	e := fillStorage(b, *manyNames)
	disk := &engine.FaultyStorage{Storage: e.storage}
	e.storage = disk
	for last := -1; len(disk.Calls()) > last; {
		last = len(disk.Calls())
		e.tick()
	}
	b.Run("metrics", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.respond(logical.ReadOperation, "metrics")
		}
	})
	b.Run("status list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.respond(logical.ListOperation, "status/")
		}
	})
}
