package guarantees_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// hourly is a key pair that rotates each hour.
var hourly = map[string]any{"rotation_period": "1h", "publish_ahead": "10m"}

// keyID returns the key ID of the active pair of prod in storage.
func keyID(e *engine.Engine) string {
	e.T.Helper()
	var stored struct {
		Active struct {
			KeyID string `json:"key_id"`
		}
	}
	require.NoError(e.T, json.Unmarshal([]byte(e.Dump()["keypair/prod"]), &stored))
	return stored.Active.KeyID
}

// assertNoneFailed asserts that no exchange since the last start has failed.
func assertNoneFailed(e *engine.Engine) {
	e.T.Helper()
	for series, value := range e.Metrics() {
		isFailure := strings.HasPrefix(series, "tokenbroker_exchanges_total{") && !strings.Contains(series, `result="success"`)
		assert.False(e.T, isFailure && value != "0.0", "%s is %s", series, value)
	}
}

// passThroughRotation lets the time of a rotation pass. At each minute, turn is called before the background work,
// whose error is ignored, and a reader gets a token afterwards.
func passThroughRotation(e *engine.Engine, nodes []*vendorsim.KeyCache, turn func(minute int)) {
	e.T.Helper()
	for minute := range 90 {
		time.Sleep(time.Minute)
		turn(minute)
		_ = e.Tick()
		for _, node := range nodes {
			node.Keys()
		}
		e.Creds("prod")
	}
}

func TestGuarantee10ARotationContinuesAfterARestartAtAnyTime(t *testing.T) {
	for name, isKilled := range map[string]bool{"by reload": false, "by kill -9": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, nodes := engine.NewPublished(t, hourly)
				first := keyID(e)
				passThroughRotation(e, nodes, func(int) {
					assertNoneFailed(e)
					if !isKilled {
						e.Backend.Cleanup(t.Context())
					}
					e.Restart()
				})
				assert.NotEqual(t, first, keyID(e))
			})
		})
	}
}

// Given storage that fails for some minutes from any write of a rotation on, or a server that is killed there,
// readers get tokens all the time, and the key pair rotates in the end.
func TestGuarantee10ARotationContinuesAfterAFailureAtAnyWrite(t *testing.T) {
	for _, isKilled := range []bool{false, true} {
		failed := 0
		for n := 0; n == failed; n++ {
			synctest.Test(t, func(t *testing.T) {
				e, nodes := engine.NewPublished(t, hourly)
				storage := e.BreakStorage()
				first, writes, isBegun, until := keyID(e), 0, false, time.Time{}
				storage.OnCall.Store(new(func(call engine.StorageCall) (fault engine.Fault) {
					if !call.Writes() || !isBegun {
						return fault
					}
					if writes++; writes == n+1 {
						failed, until = failed+1, time.Now().Add(150*time.Second)
					}
					if time.Now().Before(until) {
						fault.Err = engine.ErrStorage
					}
					return fault
				}))
				passThroughRotation(e, nodes, func(minute int) {
					isBegun = minute >= 45 // the next key is published at 50
					if isKilled && time.Now().Before(until) {
						e.Restart()
					}
				})
				assert.NotEqual(t, first, keyID(e), "%d writes", n)
				e.Restart()
				passThroughRotation(e, nodes, func(int) {})
				assertNoneFailed(e)
			})
		}
		assert.GreaterOrEqual(t, failed, 8, "a rotation writes more often")
	}
}

func TestGuarantee10AnotherNodeContinuesTheRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, hourly)
		first := keyID(e)
		former := e.Backend
		e.Restart()
		other := e.Backend
		passThroughRotation(e, nodes, func(minute int) {
			e.Backend = former
			if minute >= 55 { // the next key is published
				e.Backend = other
			}
		})
		assert.NotEqual(t, first, keyID(e))
		e.Backend = former
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		e.Backend.InvalidateKey(t.Context(), "config/oauth2/prod")
		resp, status, message := e.Request(logical.ReadOperation, "jwks/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Contains(t, string(resp.Data[logical.HTTPRawBody].([]byte)), keyID(e))
		second := keyID(e)
		for range 70 { // it does not repeat what the other node has done
			time.Sleep(time.Minute)
			require.NoError(t, e.Tick())
		}
		assert.NotEqual(t, second, keyID(e))
		assertNoneFailed(e)
	})
}

func TestGuarantee11ASweepWithNothingToRotateDoesNoStorageAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for i := range 50 {
			e.Keypair(fmt.Sprintf("scheduled%d", i), map[string]any{"key_type": "ec-p256", "publish": true, "rotation_period": "30d"})
			e.Keypair(fmt.Sprintf("other%d", i), map[string]any{"key_type": "ec-p256"})
		}
		e.Restart()
		storage := e.BreakStorage()
		require.NoError(t, e.Tick())
		assert.NotEmpty(t, storage.Calls())
		calls := len(storage.Calls())
		e.Pass(time.Hour)
		assert.Len(t, storage.Calls(), calls)
	})
}

func TestGuarantee11RotationsAreBoundedInNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for i := range 40 {
			e.Keypair(fmt.Sprintf("k%d", i), map[string]any{"key_type": "ec-p256", "publish": true, "rotation_schedule": "0 3 * * *", "publish_ahead": "1h"})
		}
		storage := e.BreakStorage()
		engine.Until(2, 30, 0)
		for _, expected := range []int{16, 16, 8, 0} {
			before := len(storage.Calls())
			require.NoError(t, e.Tick())
			puts := 0
			for _, call := range storage.Calls()[before:] {
				if call.Op == "put" && strings.HasPrefix(call.Key, "keypair/") {
					puts++
				}
			}
			assert.Equal(t, expected, puts)
		}
	})
}

// Vault holds a lock while the background work runs.
func TestGuarantee11SlowRotationsDoNotKeepTheSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for i := range 20 {
			e.Keypair(fmt.Sprintf("k%d", i), map[string]any{"key_type": "ec-p256", "publish": true, "rotation_period": "2h", "publish_ahead": "1h"})
		}
		storage := e.BreakStorage()
		engine.Until(1, 0, 30)
		storage.Stall.Store(int64(5 * time.Second))
		for range 5 {
			began := time.Now()
			require.NoError(t, e.Tick())
			assert.LessOrEqual(t, time.Since(began), 16*time.Second)
			time.Sleep(time.Minute)
		}
		for i := range 20 {
			assert.NotNil(t, e.Read(fmt.Sprintf("keypair/k%d", i)).Data["pending_key_id"], "later sweeps do the rest")
		}
	})
}

// A replica must not rotate.
func TestGuarantee11OnlyTheActiveNodeRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, hourly)
		before := e.Dump()
		e.System.ReplicationStateVal = consts.ReplicationPerformanceStandby
		e.Restart()
		for range 120 {
			time.Sleep(time.Minute)
			require.NoError(t, e.Tick())
		}
		assert.Equal(t, before, e.Dump())
	})
}
