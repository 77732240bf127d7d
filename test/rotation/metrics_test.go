package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// Prometheus does not see an increase of a series that begins with it.
func TestTheRotationsOfAVendorAreCountedFromZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		newAccount(e, "gitlab-token", nil)
		e.Pass(time.Minute) // the sweep loads them
		e.Metrics()         // the series are in the next scrape
		e.AssertMetrics(map[string]string{
			`tokenbroker_rotations_total{result="success",vendor="entra"}`: "0.0",
			`tokenbroker_rotations_total{result="failed",vendor="entra"}`:  "0.0",
		})
		assert.NotContains(t, e.Metrics(), `tokenbroker_rotations_total{result="success",vendor="gitlab-token"}`, "it has no rotation")
	})
}
