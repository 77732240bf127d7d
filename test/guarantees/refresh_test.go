package guarantees_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee9AgentGetsAFreshTokenEachTimeItReturns(t *testing.T) {
	for _, part := range []float64{0.85, 0.90, 0.95} {
		for _, lifetime := range []time.Duration{20 * time.Second, 5 * time.Minute, time.Hour, 24 * time.Hour} {
			t.Run(fmt.Sprintf("%s after %.2f", lifetime, part), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.New(t)
					e.Sim.Behave(vendorsim.Conduct{Lifetime: lifetime})
					e.Write("config/kensho/prod", engine.KeyPairFields())
					seen := map[any]bool{}
					for range 10 {
						resp := e.Creds("prod")
						assert.False(t, seen[resp.Data["access_token"]], "the agent got the same token again")
						seen[resp.Data["access_token"]] = true
						time.Sleep(time.Duration(part * float64(resp.Secret.TTL)))
					}
					assert.Equal(t, 10, e.Exchanges())
				})
			})
		}
	}
}

func TestGuarantee9RenewalThatGainsNothingIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Sticky: true, Latency: 300 * time.Millisecond})
		e.Write("config/kensho/prod", engine.KeyPairFields())
		for range 3600 {
			e.Creds("prod")
			time.Sleep(10 * time.Second)
		}
		issued, _ := e.Sim.Issued()
		assert.InDelta(t, 10, issued, 1, "hourly tokens for ten hours")
		assert.LessOrEqual(t, e.Exchanges(), 2*issued, "at most one fruitless renewal for each")
	})
}

func TestGuarantee9KenshoIsNotCalledBeforeTheFullHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		for range 3600 {
			e.Creds("prod")
			time.Sleep(10 * time.Second)
		}
		assert.InDelta(t, 10, e.Exchanges(), 1, "one exchange an hour")
	})
}

func TestGuarantee10ValidTokenAndItsFailuresSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		engine.Until(0, 50, 0)
		e.Creds("prod")
		e.Sim.Behave(engine.Down())
		engine.Until(1, 40, 0)
		before := e.Creds("prod")
		require.NotEmpty(t, before.Warnings)
		status := e.Read("status/prod").Data
		calls := e.Exchanges()

		e.Restart()
		assert.Equal(t, status, e.Read("status/prod").Data)
		after := e.Creds("prod")
		assert.Equal(t, before.Data, after.Data)
		assert.Equal(t, before.Warnings, after.Warnings)
		assert.Equal(t, calls, e.Exchanges(), "the back-off survives the restart")
	})
}

// A refresh also replaces a token that storage refused, and fails while it cannot.
func TestGuarantee8RefreshReplacesATokenThatIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/r", map[string]any{"config": "api", "scope": "read"})
		storage := e.BreakStorage()
		refuse := engine.RefuseScopeEntries
		storage.OnCall.Store(&refuse)
		e.Refused("creds/r")
		time.Sleep(10 * time.Second)
		_, status, _ := e.Request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusInternalServerError, status, "the scope's token was not replaced")
		storage.OnCall.Store(nil)
		refreshed := time.Now().UTC().Format(time.RFC3339)
		e.Write("refresh/api", nil)
		assert.GreaterOrEqual(t, e.Token("r").Data["last_vault_rotation"], refreshed)
	})
}

func TestGuarantee10ATokenIsServedAgainAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		token := e.Creds("prod").Data["access_token"]
		exchanges := e.Exchanges()

		e.Restart()
		assert.Equal(t, token, e.Creds("prod").Data["access_token"])
		assert.Equal(t, exchanges, e.Exchanges())
	})
}
