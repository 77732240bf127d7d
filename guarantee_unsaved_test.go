package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee3NobodySeesATokenThatIsNotInStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.stall.Store(int64(3 * time.Second))
		asked := time.Now()
		token := e.creds("prod").Data["access_token"]
		assert.GreaterOrEqual(t, time.Since(asked), 3*time.Second, "the reader waited for the write")
		e.restart()
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
	})
}

func TestGuarantee3AReplacedRefreshTokenIsHeldUntilStorageTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		storage.refuse.Store(true)
		calls := e.exchanges()
		for range 3 {
			status, message := e.refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Contains(t, message, "the disk is full")
		}
		assert.Equal(t, calls+1, e.exchanges(), "the vendor has answered, and is not asked again")
		data := e.read("status/prod").Data
		assert.Equal(t, "failed", data["state"])
		assert.Contains(t, data["storage_error"], "the disk is full")

		storage.refuse.Store(false)
		// Deleting what is not there changes nothing.
		_, status, _ := e.request(logical.DeleteOperation, "config/sitecore/prod", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Contains(t, e.read("status/prod").Data, "storage_error")
		e.pass(time.Minute) // stores it, though nobody reads
		assert.NotContains(t, e.read("status/prod").Data, "storage_error")
		e.restart()
		e.creds("prod")
		assert.Equal(t, calls+1, e.exchanges())
		until(2, 0, 5)
		e.creds("prod") // with the refresh token that was held
	})
}

func TestGuarantee3ARefreshTokenIsNotSpentWhileStorageTakesNoWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		// As on a node that is not active any more, and has not noticed.
		storage.refuse.Store(true)
		storage.refuseFence.Store(true)
		calls := e.exchanges()
		for range 3 {
			status, message := e.refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Contains(t, message, "the disk is full")
		}
		assert.Len(t, storage.writesOf("fence"), 3, "each write is tried three times, and then storage is left alone for a while, too")
		data := e.read("status/prod").Data
		assert.Equal(t, "failed", data["state"])
		assert.Contains(t, data["storage_error"], "the disk is full")
		for _, spend := range []func(){
			func() { time.Sleep(10 * time.Second); require.Error(t, e.tick()) },
			func() {
				e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
			},
			func() { e.request(logical.UpdateOperation, "refresh/prod", nil) },
		} {
			spend()
			assert.Equal(t, calls, e.exchanges(), "the vendor was called, who has replaced the refresh token")
		}

		storage.refuse.Store(false)
		storage.refuseFence.Store(false)
		time.Sleep(10 * time.Second)
		e.creds("prod")
		assert.NotContains(t, e.read("status/prod").Data, "storage_error")
		assert.Equal(t, calls+1, e.exchanges())
	})
}

func TestGuarantee4AGoodTokenIsServedAtOnceWhileStorageTakesNoWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		client := vendorsim.OAuthClient{
			ID: clientID, Secret: clientSecret, Rotate: true, AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.RefreshTokenGrant},
		}
		e.sim.AddOAuthClient(client)
		e.sim.AddOAuthRefreshToken(client, refreshToken)
		e.write("config/oauth2/user", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "client_secret": clientSecret, "auth_style": "client_secret_basic", "refresh_token": refreshToken,
		})
		until(0, 50, 0) // when the token is due for a fresher one
		storage := e.moody()
		storage.refuse.Store(true)
		storage.refuseFence.Store(true)
		e.creds("user")
		asked := time.Now()
		for range 3 {
			resp := e.creds("user")
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "cannot be stored")
		}
		assert.Zero(t, time.Since(asked))
		assert.Equal(t, "degraded", e.read("status/user").Data["state"])
	})
}

func TestGuarantee3ARefreshTokenIsNotSpentByANodeThatWakesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		calls := e.exchanges()
		// The write before the call is done as the node is suspended, and no later one is.
		storage.stall.Store(int64(3 * time.Second))
		time.AfterFunc(3*time.Second+1, func() { storage.refuseFence.Store(true) })
		e.refused("creds/prod")
		assert.Equal(t, calls, e.exchanges(), "the vendor was called")
	})
}

func TestGuarantee3SlowStorageIsNoReasonNotToCallTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		storage.stall.Store(int64(time.Second))
		e.creds("prod")
	})
}

func TestGuarantee3ARefreshTokenThatStaysIsUsedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.refuseFence.Store(true)
		e.creds("prod")
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "scope": "discover"})
		time.Sleep(25 * time.Hour)
		e.creds("search") // a refresh token that the API key can make again
	})
}

func TestGuarantee3AWriteThatFailsForAMomentIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.refuse.Store(true)
		time.AfterFunc(200*time.Millisecond, func() { storage.refuse.Store(false) })
		e.creds("prod")
	})
}

func TestGuarantee3WhileStorageFailsAGoodTokenIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", keyPair())
		until(0, 50, 0)
		storage.refuse.Store(true)
		resp := e.creds("prod")
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "cannot be stored")
		assert.Equal(t, "degraded", e.read("status/prod").Data["state"])
		storage.refuse.Store(false)
		time.Sleep(10 * time.Second)
		assert.Empty(t, e.creds("prod").Warnings)
		assert.Equal(t, 2, e.exchanges())
	})
}

func TestGuarantee3AnOperatorsWriteWinsOverAHeldRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		storage.refuse.Store(true)
		e.refused("creds/prod")
		storage.refuse.Store(false)

		e.write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		e.creds("prod") // the held one was carried over, as the write did not name one
		storage.refuse.Store(true)
		until(2, 0, 5)
		e.refused("creds/prod")
		storage.refuse.Store(false)
		e.sim.AddRefreshToken("link-streaming", "the-operators-own")
		e.write("config/kensho/prod", map[string]any{"refresh_token": "the-operators-own", "keepalive_interval": 0})
		e.pass(2 * time.Minute)
		calls := e.sim.Calls()
		assert.Contains(t, calls[len(calls)-1].URL, "the-operators-own")
		until(3, 0, 5)
		e.creds("prod")
	})
}

func TestGuarantee3ARefreshTokenReplacedByAVerificationIsNotLostWithTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		storage.refuse.Store(true)
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.refuse.Store(false)
		e.pass(time.Minute)
		e.restart()
		until(1, 0, 5)
		e.creds("prod")
		assert.Equal(t, 10, e.read("config/kensho/prod").Data["request_timeout"])
	})
}

func TestGuarantee3ARefreshTokenThatComesWithoutAnAccessTokenIsKept(t *testing.T) {
	for name, provoke := range map[string]func(*engine){
		"by a read":    func(e *engine) { e.refused("creds/prod") },
		"by a refresh": func(e *engine) { e.request(logical.UpdateOperation, "refresh/prod", nil) },
		"by a verification": func(e *engine) {
			e.request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				until(1, 0, 5)
				e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
				e.sim.RevokeCredential(refreshToken)
				e.sim.AddRefreshToken("link-streaming", "the-next-one")
				provoke(e)
				e.sim.Behave(vendorsim.Conduct{})
				e.restart()
				time.Sleep(6 * time.Minute)
				e.creds("prod")
			})
		})
	}
}

func TestGuarantee3ARefreshUsesAHeldRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		storage.refuse.Store(true)
		e.refused("creds/prod")
		storage.refuse.Store(false)
		e.write("refresh/prod", nil)
		e.creds("prod")
	})
}

func TestGuarantee3WhatAnotherNodeHasReplacedIsNotStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.refuse.Store(true)
		e.refused("creds/prod")
		storage.refuse.Store(false)
		former := e.backend

		e.restart()
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token", "keepalive_interval": 0})
		token := e.creds("prod").Data["access_token"]
		e.backend = former
		e.backend.InvalidateKey(t.Context(), "config/kensho/prod")
		e.pass(2 * time.Minute)
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
	})
}

func TestGuarantee3AReplacedRefreshTokenOutlivesAConfigWriteThatStorageRefuses(t *testing.T) {
	for refreshes := range 3 {
		synctest.Test(t, func(t *testing.T) {
			e, storage := newRotatingEngine(t)
			for range refreshes {
				e.write("refresh/prod", nil)
			}
			storage.refuse.Store(true)
			_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
			require.Equal(t, http.StatusInternalServerError, status)
			storage.refuse.Store(false)
			time.Sleep(20 * time.Second)
			require.NoError(t, e.tick())
			e.restart()
			until(1, 0, 10)
			e.creds("prod")
			assert.Equal(t, 10, e.read("config/kensho/prod").Data["request_timeout"])
		})
	}
}
