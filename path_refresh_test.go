package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestARefreshWithDropRevokesTheDroppedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/reader", map[string]any{"config": "api", "scope": "read"})
		leaked, narrow := engine.TokenOf(e.Creds("api")), engine.TokenOf(e.Creds("reader"))
		e.Write("refresh/api", engine.Drop)
		assert.ElementsMatch(t, []string{leaked, narrow}, e.Sim.Revoked())
		assert.True(t, e.Sim.Accepts(engine.TokenOf(e.Creds("api"))))
		status := e.Read("status/api").Data
		assert.Equal(t, "2000-01-01T00:00:00Z", status["last_revocation_time"])
		assert.NotContains(t, status, "last_revocation_error")

		time.Sleep(time.Minute)
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.URL.Path == "/oauth2/revoke" {
				return vendorsim.Answer(http.StatusServiceUnavailable, `"down"`)
			}
			return nil
		}})
		e.Write("refresh/api", engine.Drop)
		status = e.Read("status/api").Data
		assert.Equal(t, "ok", status["state"], "a failed revocation is not a failed exchange")
		assert.Equal(t, "2000-01-01T00:01:00Z", status["last_revocation_time"])
		assert.Contains(t, status["last_revocation_error"], "503")
	})
}

func TestAFailedRevocationIsRetriedByTheNextRefresh(t *testing.T) {
	for name, fail := range map[string]func(*engine.Engine){
		"the vendor is down": func(e *engine.Engine) {
			e.Sim.Behave(engine.Down())
			e.Request(logical.UpdateOperation, "refresh/api", engine.Drop)
			e.Sim.Behave(vendorsim.Conduct{})
			time.Sleep(time.Minute)
		},
		"the vendor reports an error with status 200": func(e *engine.Engine) {
			e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
				if !strings.HasSuffix(r.URL.Path, "/revoke") {
					return nil
				}
				return vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`)
			}})
			e.Write("refresh/api", engine.Drop)
			assert.Contains(e.T, e.Read("status/api").Data["last_revocation_error"], "internal_error")
			e.Sim.Behave(vendorsim.Conduct{})
		},
		"storage refuses": func(e *engine.Engine) {
			storage := e.BreakStorage()
			storage.Refuse.Store(true)
			e.Request(logical.UpdateOperation, "refresh/api", engine.Drop)
			storage.Refuse.Store(false)
		},
		"the server is killed": func(e *engine.Engine) {
			e.Sim.Behave(engine.Down()) // no call reaches the vendor after the first write
			e.BreakStorage().FailWritesAfter(1)
			e.Request(logical.UpdateOperation, "refresh/api", engine.Drop)
			e.Sim.Behave(vendorsim.Conduct{})
			e.Storage = e.Storage.(*engine.FaultyStorage).Storage
			e.Restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				leaked := engine.TokenOf(e.Creds("api"))
				fail(e)
				e.Write("refresh/api", engine.Drop)
				assert.Contains(t, e.Sim.Revoked(), leaked)
				assert.NotContains(t, e.Read("status/api").Data, "last_revocation_error")
				revoked := len(e.Sim.Revoked())
				e.Write("refresh/api", engine.Drop)
				assert.Len(t, e.Sim.Revoked(), revoked+1, "each token is revoked once")
			})
		})
	}
}

func TestAFailedRevocationIsRetriedWhenTheCredentialIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		leaked := engine.TokenOf(e.Creds("api"))
		e.Sim.Behave(engine.Down())
		e.Request(logical.UpdateOperation, "refresh/api", engine.Drop)
		e.Sim.Behave(vendorsim.Conduct{})
		for _, path := range []string{"roles/mine", "config/oauth2/api"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		assert.Contains(t, e.Sim.Revoked(), leaked)
		engine.AssertStorageEmpty(t, e)
	})
}

func TestGuarantee3ARefreshThatDropsATokenDoesNotRevokeTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{RevokeGrant: true}})
		fields := engine.SecretClient(true)
		fields["refresh_token"], fields["scope"] = engine.RefreshToken, nil
		e.Write("config/oauth2/user", fields)
		e.Creds("user")
		e.Write("refresh/user", engine.Drop)
		assert.True(t, e.Sim.Accepts(engine.TokenOf(e.Creds("user"))))
		assert.Equal(t, "not revoked: the vendor may revoke the refresh token together with an access token", e.Read("status/user").Data["last_revocation_error"])
	})
}

func TestGuarantee16ANameIsRefreshedABoundedNumberOfTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Write("config/kensho/other", engine.KeyPairFields())
		refresh := func(name string, data map[string]any) (int, string) {
			_, status, message := e.Request(logical.UpdateOperation, "refresh/"+name, data)
			return status, message
		}
		drop := map[string]any{"drop": true}
		for _, data := range []map[string]any{nil, drop} {
			for range 10 {
				status, message := refresh("prod", data)
				require.Equal(t, http.StatusOK, status, message)
			}
			calls := e.Exchanges()
			for range 90 {
				status, message := refresh("prod", data)
				assert.Equal(t, http.StatusTooManyRequests, status)
				assert.Equal(t, "refresh/prod: refreshed 10 times within 1m0s; the next refresh is possible at 2000-01-01T00:00:06Z", message)
			}
			assert.Equal(t, calls, e.Exchanges(), "the vendor is not called")
		}
		status, message := refresh("other", nil)
		assert.Equal(t, http.StatusOK, status, message)
		e.Creds("prod")
		time.Sleep(6 * time.Second)
		for _, data := range []map[string]any{nil, drop} {
			status, message = refresh("prod", data)
			assert.Equal(t, http.StatusOK, status, message)
		}
	})
}

func TestARefreshReplacesTheCachedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		older := e.Creds("prod").Data["access_token"]
		engine.Until(0, 10, 0)
		resp, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, map[string]any{"expire_time": "2000-01-01T01:10:00Z", "vendor": "kensho"}, resp.Data)
		assert.NotEqual(t, older, e.Creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.Exchanges())

		_, status, _ = e.Request(logical.UpdateOperation, "refresh/nobody", nil)
		assert.Equal(t, http.StatusBadRequest, status)
	})
}
