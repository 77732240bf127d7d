package keypairs_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// noFailures asserts that every exchange and every read since the last start has succeeded.
func noFailures(e *engine.Engine) {
	e.T.Helper()
	for series, value := range e.Metrics() {
		isFailure := strings.HasPrefix(series, "tokenbroker_exchanges_total{") && !strings.Contains(series, `result="success"`) ||
			series == `tokenbroker_reads_total{result="failed"}`
		assert.False(e.T, isFailure && value != "0.0", "%s: %s is %s", time.Now(), series, value)
	}
}

// activeKey returns the key ID of the active pair in storage.
func activeKey(e *engine.Engine) string {
	e.T.Helper()
	var stored struct {
		Active struct {
			KeyID string `json:"key_id"`
		}
	}
	require.NoError(e.T, json.Unmarshal([]byte(e.Dump()["keypair/prod"]), &stored))
	return stored.Active.KeyID
}

func TestGuarantee17KeysRotateThroughAYearWithoutAFailedExchange(t *testing.T) {
	for name, test := range map[string]struct {
		fields    map[string]any
		last      time.Duration
		interval  time.Duration // of the background work
		rotations int
	}{
		"each 30 days":                    {map[string]any{"rotation_period": "30d"}, 365 * 24 * time.Hour, 10 * time.Minute, 12},
		"each Saturday night":             {map[string]any{"rotation_schedule": "0 3 * * SAT", "rotation_window": "1h"}, 100 * 24 * time.Hour, 10 * time.Minute, 14},
		"each hour, published 10m ahead":  {map[string]any{"rotation_period": "1h", "publish_ahead": "10m"}, 5 * 24 * time.Hour, time.Minute, 118},
		"as often as possible":            {map[string]any{"rotation_period": "1m", "publish_ahead": "30s"}, 10 * time.Hour, time.Minute, 300},
		"more often than published ahead": {map[string]any{"rotation_schedule": "0 * * * *", "publish_ahead": "6h"}, 10 * 24 * time.Hour, time.Minute, 39},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, nodes := engine.NewPublished(t, test.fields)
				e.Sim.Forgetful()
				last, rotations := test.last, test.rotations
				if testing.Short() {
					last, rotations = last/5, rotations/5
				}
				used, turns := map[string]bool{activeKey(e): true}, 0
				e.PassReading(last, test.interval, nodes, func() {
					used[activeKey(e)] = true
					if turns++; turns%500 == 0 {
						noFailures(e)
						e.Restart()
					}
				})
				noFailures(e)
				assert.InDelta(t, rotations, len(used)-1, 2)
			})
		})
	}
}
