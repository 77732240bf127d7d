package faults_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/provider"
)

// damagedValues replace each value of a stored entry in turn.
var damagedValues = []any{
	nil, true, -1.0, 1e300, "x", []any{"x", "x"}, []any{[]any{}, []any{}}, map[string]any{"x": map[string]any{}}, map[string]any{"x": nil},
	int64(1<<50 - 1), int64(1 << 50), int64(math.MaxInt64),
}

// damagedForms yields the forms of a stored value in which one value, at any depth, is replaced
// or missing. It reports whether yield asked for all of them.
func damagedForms(value any, yield func(any) bool) bool {
	for _, odd := range damagedValues {
		if !yield(odd) {
			return false
		}
	}
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			form := maps.Clone(value)
			delete(form, name)
			if !yield(form) || !damagedForms(value[name], func(odd any) bool {
				form := maps.Clone(value)
				form[name] = odd
				return yield(form)
			}) {
				return false
			}
		}
	case []any:
		for i := range value {
			if !damagedForms(value[i], func(odd any) bool {
				form := slices.Clone(value)
				form[i] = odd
				return yield(form)
			}) {
				return false
			}
		}
	}
	return true
}

// damagedNames are the names whose entries are damaged, one of each kind.
var damagedNames = []string{"api", "search", "switched", "single", "mine", "narrow"}

// Guarantee 15: with any damaged entry, the engine does not panic, other names are served, and
// the credential, role or key pair can be deleted.
func TestFaultDamagedEntryAffectsOnlyItsOwnName(t *testing.T) {
	var dump storageDump
	synctest.Test(t, func(t *testing.T) {
		d := newFullMount(t)
		d.fill()
		dump = d.dump()
	})
	every, tried := tally.Times(29, 1), 0
	for _, key := range slices.Sorted(maps.Keys(dump.Entries)) {
		if parts := strings.Split(key, "/"); len(parts) < 2 || !slices.Contains(damagedNames, parts[len(parts)-1]) && !slices.Contains(damagedNames, parts[1]) {
			continue
		}
		t.Run(key[:min(len(key), 24)], func(t *testing.T) {
			forms := 0
			damagedForms(decode[any](t, dump.Entries[key]), func(form any) bool {
				if forms++; forms%every == 0 && tally.IsSampled(forms/every) {
					raw, err := json.Marshal(form)
					require.NoError(t, err)
					tried++
					checkDamaged(t, dump, key, raw)
				}
				return !t.Failed()
			})
			raw := dump.Entries[key]
			for size := range len(raw) {
				if forms++; forms%(every*97) == 0 && !t.Failed() {
					tried++
					checkDamaged(t, dump, key, raw[:size])
				}
			}
		})
	}
	tally.Record(t, tally.Row{Fault: "damaged storage entries", Tried: tried, Note: "no panic; other names served, and each entry can be deleted"})
}

func checkDamaged(t *testing.T, dump storageDump, key string, raw []byte) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("with %.1000s", raw)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		l := load(t, dump)
		var log engine.Log
		l.logger = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Error})
		require.NoError(t, l.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: raw}))
		l.start()
		ask := func(op logical.Operation, path string, data map[string]any) {
			resp, err := l.backend.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Data: data, Storage: l.storage})
			require.NotErrorIs(t, err, broker.ErrPanicked, "%s %s", op, path)
			if resp != nil && resp.IsError() {
				require.NotContains(t, resp.Error().Error(), broker.ErrPanicked.Error())
			}
		}
		config := map[string]string{"api": "oauth2", "single": "oauth2", "search": "sitecore", "switched": "kensho"}
		for range 2 {
			require.NoError(t, l.tick())
			for _, name := range []string{"api", "single", "search", "switched", "mine", "narrow"} {
				ask(logical.ReadOperation, "status/"+name, nil)
				ask(logical.ReadOperation, "token/"+name, nil)
				ask(logical.ReadOperation, "creds/"+name, nil)
				if provider := config[name]; provider != "" {
					ask(logical.ReadOperation, "config/"+provider+"/"+name, nil)
					ask(logical.UpdateOperation, "refresh/"+name, nil)
					ask(logical.PatchOperation, "config/"+provider+"/"+name, map[string]any{"request_timeout": 30})
				} else {
					ask(logical.ReadOperation, "roles/"+name, nil)
					ask(logical.PatchOperation, "roles/"+name, map[string]any{"ttl": 600})
				}
			}
			ask(logical.ReadOperation, "keypair/switched", nil)
			ask(logical.UpdateOperation, "keypair/switched", map[string]any{"key_type": "ec-p256"}) // generated faster than RSA
			ask(logical.UpdateOperation, "keypair/switched/activate", nil)
			ask(logical.ReadOperation, "metrics", nil)
			time.Sleep(time.Hour)
		}
		l.mustSucceed(logical.ReadOperation, "token/batch")
		for _, role := range []string{"mine", "narrow", "forbidden"} {
			l.mustSucceed(logical.DeleteOperation, "roles/"+role)
		}
		for name, provider := range config {
			l.mustSucceed(logical.DeleteOperation, "config/"+provider+"/"+name)
		}
		l.mustSucceed(logical.DeleteOperation, "keypair/switched")
		for left := range l.fullMount.dump().Entries {
			parts := strings.Split(left, "/")
			require.False(t, left == key && parts[0] != "lease", "%s is left in storage", left)
		}
		require.NotContains(t, log.String(), "a bug in the engine", fmt.Sprint(log.String()))
		l.backend.Cleanup(t.Context())
	})
}

// tick sends a rollback operation, as Vault's rollback manager does.
func (d *fullMount) tick() error {
	_, err := d.backend.HandleRequest(d.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: d.storage})
	return err
}

// Guarantees 4 and 10: a stored count that is too high to be genuine is damage. The engine
// replaces the entry, and its new state can be read again.
func TestGuarantee10ImpossibleCountIsReplaced(t *testing.T) {
	for _, count := range []int64{1 << 49, 1<<50 - 1, 1 << 50, math.MaxInt64} {
		for _, counter := range []string{"number", "exchanges"} {
			synctest.Test(t, func(t *testing.T) {
				e, _ := engine.NewRotating(t)
				e.Write("refresh/prod", nil)
				e.Amend("state/prod/own", func(own map[string]any) { own[counter] = count })
				for range 2 {
					e.Restart()
					e.Write("refresh/prod", nil)
				}
				e.Restart()
				calls := e.Exchanges()
				e.Creds("prod")
				assert.Equal(t, calls, e.Exchanges(), "the replaced entry can be read")
			})
		}
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewOAuth(t)
			e.Write("refresh/api", nil)
			e.Amend("state/api/own", func(own map[string]any) {
				own["failure"] = map[string]any{"kind": provider.Unavailable, "reason": "x", "time": time.Now(), "count": count}
			})
			e.Restart()
			time.Sleep(2 * time.Hour)
			e.Sim.Behave(engine.Down())
			calls := e.Exchanges()
			for range 12 {
				e.Refused("creds/api")
			}
			assert.Equal(t, calls+1, e.Exchanges())
			e.Restart()
			e.Refused("creds/api")
			assert.Equal(t, calls+1, e.Exchanges(), "the replaced back-off can be read")
		})
	}
}

// Guarantee 15: a stored duration that no write accepts is damage, and the credential can be
// deleted.
func TestGuarantee15ImpossibleDurationIsDamage(t *testing.T) {
	for _, seconds := range []int64{-1, 1 << 50, math.MaxInt64} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
			e.Amend("config/sitecore/search", func(entry map[string]any) {
				entry["fields"].(map[string]any)["access_expiry"] = seconds
			})
			e.Restart()
			_, message := e.Refused("config/sitecore/search")
			assert.Contains(t, message, "config/sitecore/search cannot be decoded")
			_, status, message := e.Request(logical.DeleteOperation, "config/sitecore/search", nil)
			assert.Equal(t, http.StatusOK, status, message)
		})
	}
}
