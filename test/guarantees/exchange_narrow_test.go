package guarantees_test

import (
	"net/http"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// exchangedFor exchanges a caller's token, and returns for which audience the vendor issued one.
func exchangedFor(t *testing.T, e *engine.Engine, name string, data map[string]any) []string {
	t.Helper()
	issued, _ := e.Sim.DelegatedTo(engine.TokenOf(e.Swap(name, data)))
	return issued.Audience
}

// Guarantee 14: the audience of a role bounds what callers exchange their tokens for.
func TestGuarantee14ACallerGetsNoOtherAudienceThanTheRole(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Write("roles/ledger", map[string]any{"config": "swap", "audience": "ledger"})
		assert.Equal(t, []string{"ledger"}, exchangedFor(t, e, "ledger", ada), "that of the role by default")
		assert.Equal(t, []string{"ledger"}, exchangedFor(t, e, "ledger", with(ada, map[string]any{"audience": "ledger"})))
		assert.Empty(t, exchangedFor(t, e, "swap", ada), "another token")
		calls := e.Exchanges()
		_, status, message := e.Request(logical.UpdateOperation, "exchange/ledger", with(ada, map[string]any{"audience": "https://ledger.example.com"}))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, `audience: the role has no "https://ledger.example.com" (it has ledger)`, message)
		assert.Equal(t, calls, e.Exchanges(), "nothing was sent")

		e.Write("config/oauth2/swap", map[string]any{"audience": "ledger,https://ledger.example.com"})
		assert.Equal(t, []string{"ledger", "https://ledger.example.com"}, exchangedFor(t, e, "swap", ada))
		assert.Equal(t, []string{"ledger"}, exchangedFor(t, e, "swap", with(ada, map[string]any{"audience": "ledger"})))
		_, status, message = e.Request(logical.UpdateOperation, "exchange/swap", with(ada, map[string]any{"audience": "admin"}))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `audience: the credential has no "admin"`)
	})
}

func TestTheAudienceOfAnExchangeCanDependOnTheCaller(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Write("roles/mine", map[string]any{"config": "swap", "audience": "{{identity.entity.aliases.accessor.name}}"})
		e.AddReader("1", "ledger")
		_, status, message := e.Request(logical.UpdateOperation, "exchange/mine", ada)
		assert.Equal(t, http.StatusForbidden, status)
		assert.Contains(t, message, "the role's tokens depend on the reader's identity")
		resp, status, message := e.RequestWithin(engine.AsReader(t.Context(), "1"), logical.UpdateOperation, "exchange/mine", ada)
		require.Equal(t, http.StatusOK, status, message)
		issued, _ := e.Sim.DelegatedTo(engine.TokenOf(resp))
		assert.Equal(t, []string{"ledger"}, issued.Audience)
	})
}
