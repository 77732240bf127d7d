package guarantees_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// Like TestADamagedClientIsRepairedByAWrite, but a minute passes before the repair.
func TestADamagedClientIsRepairedByAWriteAfterASweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		fields := e.crm()
		e.Damage("client/crm")
		e.Restart()
		require.NoError(t, e.Tick())
		time.Sleep(time.Minute)
		require.NoError(t, e.Tick())
		again := map[string]any{"client_secret": engine.ClientSecret}
		for _, field := range []string{"vendor", "token_url", "authorization_url", "client_id", "auth_style", "redirect_uri", "scope", "grant_type"} {
			again[field] = fields[field]
		}
		e.Write("clients/crm", again)
		for range 3 {
			time.Sleep(time.Minute)
			require.NoError(t, e.Tick())
		}
		assert.NotContains(t, e.MetricsText(), `tokenbroker_credential_unusable{name="alice"} 1`)
	})
}
