package tokenbroker_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
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

func TestATokenIsServedFromTheCacheUntilItDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		require.Equal(t, 1, e.Exchanges(), "the exchange that verified the credential")

		first := e.Creds("prod").Data["access_token"]
		engine.Until(0, 59, 0)
		assert.Equal(t, first, e.Creds("prod").Data["access_token"])
		assert.Equal(t, 1, e.Exchanges())

		engine.Until(1, 0, 5)
		assert.NotEqual(t, first, e.Creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.Exchanges())
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

func TestGuarantee2ReadersShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		before := e.Exchanges()
		e.Sim.Behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})

		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { e.Creds("prod") })
		}
		readers.Wait()
		assert.Equal(t, before+1, e.Exchanges())
		assert.Equal(t, 1, e.Sim.MostInFlight())
	})
}

func TestAReaderWhoHangsUpTakesNobodyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Sim.Behave(vendorsim.Conduct{Latency: 2 * time.Second})

		impatient, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		_, err := e.Backend.HandleRequest(impatient, &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.Storage})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		e.Creds("prod")
		assert.Equal(t, 1, e.Exchanges(), "the next reader joins the exchange that was under way")
	})
}

func TestGuarantee8AConfigWriteCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		older := e.Creds("prod").Data["access_token"]

		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.Creds("prod").Data["access_token"]
		assert.NotEqual(t, older, newer)
		e.Restart()
		assert.Equal(t, newer, e.Creds("prod").Data["access_token"], "after a restart too")
	})
}

func TestGuarantee8ADeletedConfigHasNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("prod")

		_, status, _ := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, 200, status)
		_, status, message := e.Request(logical.ReadOperation, "creds/prod", nil)
		assert.Equal(t, 400, status)
		assert.Contains(t, message, `no role or credential named "prod"`)
		left, err := logical.CollectKeys(t.Context(), e.Storage)
		require.NoError(t, err)
		assert.Empty(t, left)
	})
}

func TestTheFactoryTouchesNothing(t *testing.T) {
	_, err := tokenbroker.Factory(t.Context(), &logical.BackendConfig{})
	assert.NoError(t, err, "Vault calls it with an empty config to register the plugin")
}

func TestMountsShareWhatTheirPathsTakeAndAnswer(t *testing.T) {
	first, second := tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{})), tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{}))
	same := func(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
	for i, path := range second {
		assert.True(t, same(path.Fields, first[i].Fields), path.Pattern)
		for operation, handler := range path.Operations {
			other := first[i].Operations[operation]
			assert.True(t, same(handler.Properties().Responses, other.Properties().Responses), "%s %s", operation, path.Pattern)
			assert.False(t, same(handler, other), "%s %s: what answers is each mount's own", operation, path.Pattern)
		}
	}
}

func TestWhatAnotherNodeWroteIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		older := e.Creds("prod").Data["access_token"]
		standby := e.Backend

		e.Restart() // the active node, on the same storage
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.Creds("prod").Data["access_token"]
		require.NotEqual(t, older, newer)

		active := e.Backend
		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "config/kensho/prod")
		assert.Equal(t, newer, e.Creds("prod").Data["access_token"])

		e.Backend = active
		e.Write("refresh/prod", nil)
		newest := e.Creds("prod").Data["access_token"]
		require.NotEqual(t, newer, newest)
		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "state/prod/own")
		assert.Equal(t, newest, e.Creds("prod").Data["access_token"])
	})
}

func TestAllSecretsThatAreStoredAreSealWrapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("refresh/prod", nil)
		e.Keypair("prod", nil)
		stored, err := logical.CollectKeys(t.Context(), e.Storage)
		require.NoError(t, err)
		require.Len(t, stored, 3)
		for _, key := range stored {
			assert.True(t, slices.ContainsFunc(e.Backend.SpecialPaths().SealWrapStorage, func(prefix string) bool {
				return strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
			}), key)
		}
	})
}
