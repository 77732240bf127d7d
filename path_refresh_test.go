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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestARefreshRevokesTheTokensThatItDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("roles/reader", map[string]any{"config": "api", "scope": "read"})
		leaked, narrow := tokenOf(e.creds("api")), tokenOf(e.creds("reader"))
		e.write("refresh/api", drop)
		assert.ElementsMatch(t, []string{leaked, narrow}, e.sim.Revoked())
		assert.True(t, e.sim.Accepts(tokenOf(e.creds("api"))))
		status := e.read("status/api").Data
		assert.Equal(t, "2000-01-01T00:00:00Z", status["last_revocation_time"])
		assert.NotContains(t, status, "last_revocation_error")

		time.Sleep(time.Minute)
		e.sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.URL.Path == "/oauth2/revoke" {
				return vendorsim.Answer(http.StatusServiceUnavailable, `"down"`)
			}
			return nil
		}})
		e.write("refresh/api", drop)
		status = e.read("status/api").Data
		assert.Equal(t, "ok", status["state"], "it fails nothing")
		assert.Equal(t, "2000-01-01T00:01:00Z", status["last_revocation_time"])
		assert.Contains(t, status["last_revocation_error"], "503")
	})
}

func TestATokenThatARefreshCouldNotRevokeIsRevokedByTheNext(t *testing.T) {
	for name, goesWrong := range map[string]func(*engine){
		"the vendor is down": func(e *engine) {
			e.sim.Behave(down())
			e.request(logical.UpdateOperation, "refresh/api", drop)
			e.sim.Behave(vendorsim.Conduct{})
			time.Sleep(time.Minute)
		},
		"the vendor says so with status 200": func(e *engine) {
			e.sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
				if !strings.HasSuffix(r.URL.Path, "/revoke") {
					return nil
				}
				return vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`)
			}})
			e.write("refresh/api", drop)
			assert.Contains(e.t, e.read("status/api").Data["last_revocation_error"], "internal_error")
			e.sim.Behave(vendorsim.Conduct{})
		},
		"storage refuses": func(e *engine) {
			storage := e.moody()
			storage.refuse.Store(true)
			e.request(logical.UpdateOperation, "refresh/api", drop)
			storage.refuse.Store(false)
		},
		"the server is killed": func(e *engine) {
			e.sim.Behave(down()) // nothing reaches it after the first write
			e.moody().dieAfter(1)
			e.request(logical.UpdateOperation, "refresh/api", drop)
			e.sim.Behave(vendorsim.Conduct{})
			e.storage = e.storage.(*moodyStorage).Storage
			e.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newOAuthEngine(t)
				leaked := tokenOf(e.creds("api"))
				goesWrong(e)
				e.write("refresh/api", drop)
				assert.Contains(t, e.sim.Revoked(), leaked)
				assert.NotContains(t, e.read("status/api").Data, "last_revocation_error")
				revoked := len(e.sim.Revoked())
				e.write("refresh/api", drop)
				assert.Len(t, e.sim.Revoked(), revoked+1, "each but once")
			})
		})
	}
}

func TestATokenThatCouldNotBeRevokedIsRevokedWhenItsCredentialIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		leaked := tokenOf(e.creds("api"))
		e.sim.Behave(down())
		e.request(logical.UpdateOperation, "refresh/api", drop)
		e.sim.Behave(vendorsim.Conduct{})
		for _, path := range []string{"roles/mine", "config/oauth2/api"} {
			_, status, message := e.request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		assert.Contains(t, e.sim.Revoked(), leaked)
		assertStorageEmpty(t, e)
	})
}

func TestGuarantee3ARefreshDoesNotEndTheRefreshTokenWithTheTokenThatItDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{RevokeGrant: true}})
		fields := secretClient(true)
		fields["refresh_token"], fields["scope"] = refreshToken, nil
		e.write("config/oauth2/user", fields)
		e.creds("user")
		e.write("refresh/user", drop)
		assert.True(t, e.sim.Accepts(tokenOf(e.creds("user"))))
		assert.Equal(t, "left alone: the vendor may end the refresh token together with an access token", e.read("status/user").Data["last_revocation_error"])
	})
}

func TestGuarantee16ANameIsRefreshedABoundedNumberOfTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.write("config/kensho/other", keyPair())
		refresh := func(name string, data map[string]any) (int, string) {
			_, status, message := e.request(logical.UpdateOperation, "refresh/"+name, data)
			return status, message
		}
		drop := map[string]any{"drop": true}
		for _, data := range []map[string]any{nil, drop} {
			for range 10 {
				status, message := refresh("prod", data)
				require.Equal(t, http.StatusOK, status, message)
			}
			calls := e.exchanges()
			for range 90 {
				status, message := refresh("prod", data)
				assert.Equal(t, http.StatusTooManyRequests, status)
				assert.Equal(t, "refresh/prod: 10 refreshes within 1m0s are as many as there may be; the next one may be at 2000-01-01T00:00:06Z", message)
			}
			assert.Equal(t, calls, e.exchanges(), "the vendor is spared")
		}
		status, message := refresh("other", nil)
		assert.Equal(t, http.StatusOK, status, message)
		e.creds("prod")
		time.Sleep(6 * time.Second)
		for _, data := range []map[string]any{nil, drop} {
			status, message = refresh("prod", data)
			assert.Equal(t, http.StatusOK, status, message)
		}
	})
}
