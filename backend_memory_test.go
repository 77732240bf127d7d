package tokenbroker_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Guarantee 15: a write that storage refuses leaves nothing in memory.
func TestGuarantee15RefusedWritesLeaveNoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		storage := e.BreakStorage()
		before := tokenbroker.NamesInMemory(e.Backend)
		write := func(name string) {
			_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/"+name, map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
			require.Equal(t, http.StatusInternalServerError, status)
		}
		storage.Refuse.Store(true)
		for i := range 100 {
			write(fmt.Sprintf("x%d", i))
		}
		assert.Equal(t, before+100, tokenbroker.NamesInMemory(e.Backend), "storage may have taken them")
		e.Pass(time.Minute)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend), "found to be missing in the background")
		write("x")
		e.Request(logical.UpdateOperation, "refresh/x", nil)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend), "found to be missing by who asks")
		storage.Refuse.Store(false)
		e.Write("config/kensho/x", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Creds("x")
	})
}

// Row 32: whoever may write credentials fills no memory, with a vendor of their own either.
func TestRefreshTokensThatAreHeldForWritesAreFewAndNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
		attempt := func(i int) string {
			_, status, message := e.Request(logical.UpdateOperation, fmt.Sprintf("config/kensho/n%d", i), map[string]any{"refresh_token": engine.RefreshToken, "request_timeout": 5 + i%2})
			require.Equal(t, http.StatusBadGateway, status, message)
			calls := e.Sim.Calls()
			return calls[len(calls)-1].URL
		}
		before := tokenbroker.NamesInMemory(e.Backend)
		for i := range 110 {
			attempt(i)
			time.Sleep(time.Second)
		}
		assert.Equal(t, before+100, tokenbroker.NamesInMemory(e.Backend))
		assert.NotContains(t, attempt(9), "the-next-one", "the oldest go first")
		assert.Contains(t, attempt(109), "the-next-one")
		assert.Contains(t, attempt(50), "the-next-one", "and the one of before is held on")

		e.Pass(58 * time.Minute)
		assert.Contains(t, attempt(109), "the-next-one")
		e.Pass(time.Hour)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend), "though nobody writes")
	})
}
