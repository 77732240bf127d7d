package guarantees_test

import (
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

func TestGuarantee3RefreshTokenRotatedByAFailedWriteIsUsedByTheNextWrite(t *testing.T) {
	for name, fails := range map[string]func(*engine.Engine, *engine.FaultyStorage){
		"storage refuses": func(_ *engine.Engine, s *engine.FaultyStorage) { s.Refuse.Store(true) },
		"the answer has no access token": func(e *engine.Engine, _ *engine.FaultyStorage) {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
			e.Sim.RevokeCredential(engine.AnotherToken)
			e.Sim.AddRefreshToken("link-streaming", "the-next-one")
		},
	} {
		for _, path := range []string{"config/kensho/new", "config/kensho/prod"} {
			t.Run(path+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, storage := engine.NewRotating(t)
					e.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
					fails(e, storage)
					for range 2 {
						_, status, message := e.Request(logical.UpdateOperation, path, map[string]any{"refresh_token": engine.AnotherToken})
						require.GreaterOrEqual(t, status, http.StatusInternalServerError, message)
						assert.NotContains(t, message, "rejected")
						e.Sim.Behave(vendorsim.Conduct{Rotate: true})
						if !storage.Refuse.Load() {
							break
						}
						assert.Contains(t, message, "only in memory; send the same write again")
					}
					storage.Refuse.Store(false)
					e.Write(path, map[string]any{"refresh_token": engine.AnotherToken})
					e.Write(path, map[string]any{"refresh_token": engine.AnotherToken})
					e.Restart()
					engine.Until(1, 0, 5)
					e.Creds(path[len("config/kensho/"):])
				})
			})
		}
	}
}

func TestUnstoredRefreshTokenIsDiscardedWithItsCredential(t *testing.T) {
	for name, end := range map[string]func(*engine.Engine){
		"the credential is deleted":     func(e *engine.Engine) { e.Request(logical.DeleteOperation, "config/kensho/prod", nil) },
		"the credential is written":     func(e *engine.Engine) { e.Write("config/kensho/prod", engine.KeyPairFields()) },
		"the write gives another token": func(*engine.Engine) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				storage := e.BreakStorage()
				e.Sim.Behave(vendorsim.Conduct{Rotate: true})
				storage.Refuse.Store(true)
				e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				storage.Refuse.Store(false)
				end(e)
				token := engine.RefreshToken
				if name == "the write gives another token" {
					token = engine.AnotherToken
				}
				e.Sim.AddRefreshToken("link-streaming", token) // the vendor accepts it again
				before := e.Exchanges()
				e.Write("config/kensho/prod", map[string]any{"refresh_token": token, "client_id": "", "private_key": ""})
				assert.Contains(t, e.Sim.Calls()[before].URL, token)
			})
		})
	}
}

func TestUnstoredRefreshTokenIsUsedOnlyByTheSameWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		e.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
		write := map[string]any{"refresh_token": engine.AnotherToken}
		storage.Refuse.Store(true)
		_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", write)
		require.Equal(t, http.StatusInternalServerError, status)
		require.Contains(t, message, "send the same write again")
		storage.Refuse.Store(false)
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true}) // changes the stored credential

		elsewhere := map[string]any{"refresh_token": engine.AnotherToken, "product": "scribe"}
		e.Request(logical.UpdateOperation, "config/kensho/prod", elsewhere)
		calls := e.Sim.Calls()
		require.Contains(t, calls[len(calls)-1].URL, "scribe.kensho.com")
		assert.Contains(t, calls[len(calls)-1].URL, engine.AnotherToken, "the given token is sent, although it is spent")

		e.Write("config/kensho/prod", write)
		engine.Until(1, 0, 5)
		e.Creds("prod")
	})
}

func TestUnstoredRefreshTokenIsNotUsedAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
		for _, used := range []string{engine.RefreshToken, "the-next-one", engine.RefreshToken} {
			e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
			calls := e.Sim.Calls()
			assert.Contains(t, calls[len(calls)-1].URL, used)
			time.Sleep(31 * time.Minute)
		}
	})
}
