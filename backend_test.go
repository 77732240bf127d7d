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
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestATokenIsServedFromTheCacheUntilItDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		require.Equal(t, 1, e.exchanges(), "the exchange that verified the credential")

		first := e.creds("prod").Data["access_token"]
		until(0, 59, 0)
		assert.Equal(t, first, e.creds("prod").Data["access_token"])
		assert.Equal(t, 1, e.exchanges())

		until(1, 0, 5)
		assert.NotEqual(t, first, e.creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.exchanges())
	})
}

func TestGuarantee10ATokenIsServedAgainAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		token := e.creds("prod").Data["access_token"]
		exchanges := e.exchanges()

		e.restart()
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
		assert.Equal(t, exchanges, e.exchanges())
	})
}

func TestGuarantee2ReadersShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		before := e.exchanges()
		e.sim.Behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})

		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { e.creds("prod") })
		}
		readers.Wait()
		assert.Equal(t, before+1, e.exchanges())
		assert.Equal(t, 1, e.sim.MostInFlight())
	})
}

func TestAReaderWhoHangsUpTakesNobodyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 10, 0)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		e.sim.Behave(vendorsim.Conduct{Latency: 2 * time.Second})

		impatient, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		_, err := e.backend.HandleRequest(impatient, &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.storage})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		e.creds("prod")
		assert.Equal(t, 1, e.exchanges(), "the next reader joins the exchange that was under way")
	})
}

func TestGuarantee8AConfigWriteCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		older := e.creds("prod").Data["access_token"]

		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.creds("prod").Data["access_token"]
		assert.NotEqual(t, older, newer)
		e.restart()
		assert.Equal(t, newer, e.creds("prod").Data["access_token"], "after a restart too")
	})
}

func TestGuarantee8ADeletedConfigHasNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.creds("prod")

		_, status, _ := e.request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, 200, status)
		_, status, message := e.request(logical.ReadOperation, "creds/prod", nil)
		assert.Equal(t, 400, status)
		assert.Contains(t, message, `"prod" is no role and no credential`)
		left, err := logical.CollectKeys(t.Context(), e.storage)
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
		e := newEngine(t)
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		older := e.creds("prod").Data["access_token"]
		standby := e.backend

		e.restart() // the active node, on the same storage
		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.creds("prod").Data["access_token"]
		require.NotEqual(t, older, newer)

		active := e.backend
		e.backend = standby
		e.backend.InvalidateKey(t.Context(), "config/kensho/prod")
		assert.Equal(t, newer, e.creds("prod").Data["access_token"])

		e.backend = active
		e.write("refresh/prod", nil)
		newest := e.creds("prod").Data["access_token"]
		require.NotEqual(t, newer, newest)
		e.backend = standby
		e.backend.InvalidateKey(t.Context(), "state/prod/own")
		assert.Equal(t, newest, e.creds("prod").Data["access_token"])
	})
}

func TestAllSecretsThatAreStoredAreSealWrapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.write("refresh/prod", nil)
		e.keypair("prod", nil)
		stored, err := logical.CollectKeys(t.Context(), e.storage)
		require.NoError(t, err)
		require.Len(t, stored, 3)
		for _, key := range stored {
			assert.True(t, slices.ContainsFunc(e.backend.SpecialPaths().SealWrapStorage, func(prefix string) bool {
				return strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
			}), key)
		}
	})
}
