package guarantees_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Given an exchange in flight, its token is not served once a write, a refresh or a delete
// has returned.
func TestGuarantee8ChangeDiscardsAnExchangeInFlight(t *testing.T) {
	for name, change := range map[string]func(*engine.Engine){
		"write": func(e *engine.Engine) {
			e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		},
		"refresh":       func(e *engine.Engine) { e.Write("refresh/prod", nil) },
		"refresh, drop": func(e *engine.Engine) { e.Write("refresh/prod", engine.Drop) },
		"delete": func(e *engine.Engine) {
			_, status, message := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
			require.Equal(e.T, http.StatusOK, status, message)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
				engine.Until(0, 10, 0)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
				e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var older *logical.Response
				var reader sync.WaitGroup
				reader.Go(func() { older, _, _ = e.Request(logical.ReadOperation, "creds/prod", nil) })
				time.Sleep(time.Second)
				change(e)
				reader.Wait()

				if name == "delete" {
					e.Pass(5 * time.Minute)
					status, _ := e.Refused("creds/prod")
					assert.Equal(t, http.StatusBadRequest, status)
					engine.AssertStorageEmpty(t, e)
					return
				}
				newer := e.Creds("prod").Data["access_token"]
				if older != nil && !older.IsError() {
					assert.NotEqual(t, older.Data["access_token"], newer)
				}
				e.Restart()
				assert.Equal(t, newer, e.Creds("prod").Data["access_token"])
				assert.Equal(t, 1, e.Sim.MostInFlight())
			})
		})
	}
}

func TestGuarantee8WriteTakesEffectWhenStorageRefusesDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		older := e.Creds("prod").Data["access_token"]
		storage.RefuseDeletes.Store(true)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		assert.NotEqual(t, older, e.Creds("prod").Data["access_token"])
		e.Restart()
		assert.NotEqual(t, older, e.Creds("prod").Data["access_token"])

		_, status, _ := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.RefuseDeletes.Store(false)
		_, status, _ = e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		assert.Equal(t, http.StatusOK, status)
		engine.AssertStorageEmpty(t, e)
	})
}

// A refresh with drop=true that cannot be stored fails, because a restart would restore the
// dropped token.
func TestGuarantee8RefreshWithDropReportsAStorageFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", engine.KeyPairFields())
		leaked := e.Creds("prod").Data["access_token"]
		storage.Refuse.Store(true)
		_, status, _ := e.Request(logical.UpdateOperation, "refresh/prod", engine.Drop)
		assert.Equal(t, http.StatusInternalServerError, status, "a restart would restore the token")
		assert.Equal(t, 1, e.Exchanges())
		e.Refused("creds/prod")
		storage.Refuse.Store(false)
		time.Sleep(10 * time.Second)
		assert.NotEqual(t, leaked, e.Creds("prod").Data["access_token"])
	})
}

// Given a refresh in flight, an invalidation of the credential's state does not fail it.
func TestGuarantee8RefreshSucceedsDuringAnInvalidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Creds("prod")
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		var operator sync.WaitGroup
		operator.Go(func() { e.Write("refresh/prod", nil) })
		time.Sleep(500 * time.Millisecond)
		e.Backend.InvalidateKey(t.Context(), "state/prod/own")
		operator.Wait()
		e.Creds("prod")
	})
}

func TestGuarantee8FailedRefreshWithDropStillDropsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		leaked := e.Creds("prod").Data["access_token"]
		e.Sim.Behave(engine.Down())
		_, status, _ := e.Request(logical.UpdateOperation, "refresh/prod", engine.Drop)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		e.Refused("creds/prod")
		e.Restart()
		e.Refused("creds/prod")
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		assert.NotEqual(t, leaked, e.Creds("prod").Data["access_token"])
	})
}

func TestGuarantee8AConfigWriteAppliesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		older := e.Creds("prod").Data["access_token"]

		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.Creds("prod").Data["access_token"]
		assert.NotEqual(t, older, newer)
		e.Restart()
		assert.Equal(t, newer, e.Creds("prod").Data["access_token"], "also after a restart")
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
		engine.AssertStorageEmpty(t, e)
	})
}
