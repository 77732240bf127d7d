package engine

import (
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Tick sends one rollback operation, as Vault's rollback manager does every minute.
func (e *Engine) Tick() error {
	_, err := e.Backend.HandleRequest(e.T.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.Storage})
	return err
}

// Pass sleeps for d, with a Tick every minute. In a day or more, it ticks every quarter of an hour
// until the last two hours, because a year of minutes takes too long under the race detector.
func (e *Engine) Pass(d time.Duration) {
	e.T.Helper()
	if d >= 24*time.Hour {
		e.pass(d-2*time.Hour, 15*time.Minute)
		d = 2 * time.Hour
	}
	e.pass(d, time.Minute)
}

func (e *Engine) pass(d, interval time.Duration) {
	e.T.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(interval, time.Until(end)))
		require.NoError(e.T, e.Tick())
	}
}

// PassReading sleeps for d. At each interval there is a Tick, the vendor's nodes renew their caches, and a reader
// reads the token of prod. It then calls each.
func (e *Engine) PassReading(d, interval time.Duration, nodes []*vendorsim.KeyCache, each func()) {
	e.T.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(interval)
		require.NoError(e.T, e.Tick())
		for _, node := range nodes {
			node.Keys()
		}
		e.Creds("prod")
		each()
	}
}
