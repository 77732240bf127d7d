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

func TestGuarantee3TokenIsStoredBeforeItIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		storage.Stall.Store(int64(3 * time.Second))
		asked := time.Now()
		token := e.Creds("prod").Data["access_token"]
		assert.GreaterOrEqual(t, time.Since(asked), 3*time.Second, "the reader waited for the write")
		e.Restart()
		assert.Equal(t, token, e.Creds("prod").Data["access_token"])
	})
}

func TestGuarantee3RotatedRefreshTokenIsKeptUntilItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		storage.Refuse.Store(true)
		calls := e.Exchanges()
		for range 3 {
			status, message := e.Refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Contains(t, message, "the disk is full")
		}
		assert.Equal(t, calls+1, e.Exchanges(), "the vendor's answer is in memory, and no exchange repeats it")
		data := e.Read("status/prod").Data
		assert.Equal(t, "failed", data["state"])
		assert.Contains(t, data["storage_error"], "the disk is full")

		storage.Refuse.Store(false)
		// The delete of another vendor's credential of that name changes nothing.
		_, status, _ := e.Request(logical.DeleteOperation, "config/sitecore/prod", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Contains(t, e.Read("status/prod").Data, "storage_error")
		e.Pass(time.Minute) // the background work stores it without a read
		assert.NotContains(t, e.Read("status/prod").Data, "storage_error")
		e.Restart()
		e.Creds("prod")
		assert.Equal(t, calls+1, e.Exchanges())
		engine.Until(2, 0, 5)
		e.Creds("prod") // uses the rotated refresh token
	})
}

func TestGuarantee3RefreshTokenIsNotSpentWhileStorageRefusesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		// As on a node that has lost its active state and does not know yet.
		storage.Refuse.Store(true)
		storage.RefuseProbe.Store(true)
		calls := e.Exchanges()
		for range 3 {
			status, message := e.Refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Contains(t, message, "the disk is full")
		}
		assert.Len(t, storage.WritesOf("probe"), 3, "a write is tried three times, then backs off")
		data := e.Read("status/prod").Data
		assert.Equal(t, "failed", data["state"])
		assert.Contains(t, data["storage_error"], "the disk is full")
		for _, spend := range []func(){
			func() { time.Sleep(10 * time.Second); require.Error(t, e.Tick()) },
			func() {
				e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
			},
			func() { e.Request(logical.UpdateOperation, "refresh/prod", nil) },
		} {
			spend()
			assert.Equal(t, calls, e.Exchanges(), "an exchange has spent the refresh token")
		}

		storage.Refuse.Store(false)
		storage.RefuseProbe.Store(false)
		time.Sleep(10 * time.Second)
		e.Creds("prod")
		assert.NotContains(t, e.Read("status/prod").Data, "storage_error")
		assert.Equal(t, calls+1, e.Exchanges())
	})
}

func TestGuarantee4ValidTokenIsServedAtOnceWhileStorageRefusesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		client := vendorsim.OAuthClient{
			ID: engine.ClientID, Secret: engine.ClientSecret, Rotate: true, AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.RefreshTokenGrant},
		}
		e.Sim.AddOAuthClient(client)
		e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken)
		e.Write("config/oauth2/user", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "auth_style": "client_secret_basic", "refresh_token": engine.RefreshToken,
		})
		engine.Until(0, 50, 0) // the token is due for renewal
		storage := e.BreakStorage()
		storage.Refuse.Store(true)
		storage.RefuseProbe.Store(true)
		e.Creds("user")
		asked := time.Now()
		for range 3 {
			resp := e.Creds("user")
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "cannot be stored")
		}
		assert.Zero(t, time.Since(asked))
		assert.Equal(t, "degraded", e.Read("status/user").Data["state"])
	})
}

// Given a node that is suspended for seconds during the write before an exchange, it makes no
// exchange when it resumes: another node may be active by then.
func TestGuarantee3RefreshTokenIsNotSpentByAResumedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		calls := e.Exchanges()
		// The node is suspended during the write before the exchange; later writes fail.
		storage.Stall.Store(int64(3 * time.Second))
		time.AfterFunc(3*time.Second+1, func() { storage.RefuseProbe.Store(true) })
		e.Refused("creds/prod")
		assert.Equal(t, calls, e.Exchanges(), "the vendor was called")
	})
}

func TestGuarantee3SlowStorageDoesNotPreventAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		storage.Stall.Store(int64(time.Second))
		e.Creds("prod")
	})
}

// Given storage that refuses the probe, the write before an exchange, the engine still uses a
// refresh token that the exchange does not spend, or that an API key can replace.
func TestGuarantee3ReusableRefreshTokenNeedsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		storage.RefuseProbe.Store(true)
		e.Creds("prod")
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "scope": "discover"})
		time.Sleep(25 * time.Hour)
		e.Creds("search") // the API key can replace its refresh token
	})
}

func TestGuarantee3BriefStorageFailureIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		storage.Refuse.Store(true)
		time.AfterFunc(200*time.Millisecond, func() { storage.Refuse.Store(false) })
		e.Creds("prod")
	})
}

func TestGuarantee3ValidTokenIsServedWhileStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", engine.KeyPairFields())
		engine.Until(0, 50, 0)
		storage.Refuse.Store(true)
		resp := e.Creds("prod")
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "cannot be stored")
		assert.Equal(t, "degraded", e.Read("status/prod").Data["state"])
		storage.Refuse.Store(false)
		time.Sleep(10 * time.Second)
		assert.Empty(t, e.Creds("prod").Warnings)
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestGuarantee3OperatorWriteReplacesAnUnstoredRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		storage.Refuse.Store(true)
		e.Refused("creds/prod")
		storage.Refuse.Store(false)

		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		e.Creds("prod") // a write without a refresh token keeps the unstored one
		storage.Refuse.Store(true)
		engine.Until(2, 0, 5)
		e.Refused("creds/prod")
		storage.Refuse.Store(false)
		e.Sim.AddRefreshToken("link-streaming", "the-operators-own")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "the-operators-own", "keepalive_interval": 0})
		e.Pass(2 * time.Minute)
		calls := e.Sim.Calls()
		assert.Contains(t, calls[len(calls)-1].URL, "the-operators-own")
		engine.Until(3, 0, 5)
		e.Creds("prod")
	})
}

func TestGuarantee3RefreshTokenRotatedByAFailedWriteIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		storage.Refuse.Store(true)
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.Refuse.Store(false)
		e.Pass(time.Minute)
		e.Restart()
		engine.Until(1, 0, 5)
		e.Creds("prod")
		assert.Equal(t, 10, e.Read("config/kensho/prod").Data["request_timeout"])
	})
}

func TestGuarantee3RefreshTokenWithoutAnAccessTokenIsKept(t *testing.T) {
	for name, provoke := range map[string]func(*engine.Engine){
		"by a read":    func(e *engine.Engine) { e.Refused("creds/prod") },
		"by a refresh": func(e *engine.Engine) { e.Request(logical.UpdateOperation, "refresh/prod", nil) },
		"by a verification": func(e *engine.Engine) {
			e.Request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				engine.Until(1, 0, 5)
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
				e.Sim.RevokeCredential(engine.RefreshToken)
				e.Sim.AddRefreshToken("link-streaming", "the-next-one")
				provoke(e)
				e.Sim.Behave(vendorsim.Conduct{})
				e.Restart()
				time.Sleep(6 * time.Minute)
				e.Creds("prod")
			})
		})
	}
}

func TestGuarantee3RefreshUsesTheUnstoredRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		storage.Refuse.Store(true)
		e.Refused("creds/prod")
		storage.Refuse.Store(false)
		e.Write("refresh/prod", nil)
		e.Creds("prod")
	})
}

// Given an unstored state on a former active node, that node does not store it after another
// node has written the credential.
func TestGuarantee3StaleStateDoesNotOverwriteAnotherNodesWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		storage.Refuse.Store(true)
		e.Refused("creds/prod")
		storage.Refuse.Store(false)
		former := e.Backend

		e.Restart()
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token", "keepalive_interval": 0})
		token := e.Creds("prod").Data["access_token"]
		e.Backend = former
		e.Backend.InvalidateKey(t.Context(), "config/kensho/prod")
		e.Pass(2 * time.Minute)
		assert.Equal(t, token, e.Creds("prod").Data["access_token"])
	})
}

func TestGuarantee3RefreshTokenSurvivesARefusedConfigWrite(t *testing.T) {
	for refreshes := range 3 {
		synctest.Test(t, func(t *testing.T) {
			e, storage := engine.NewRotating(t)
			for range refreshes {
				e.Write("refresh/prod", nil)
			}
			storage.Refuse.Store(true)
			_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
			require.Equal(t, http.StatusInternalServerError, status)
			storage.Refuse.Store(false)
			time.Sleep(20 * time.Second)
			require.NoError(t, e.Tick())
			e.Restart()
			engine.Until(1, 0, 10)
			e.Creds("prod")
			assert.Equal(t, 10, e.Read("config/kensho/prod").Data["request_timeout"])
		})
	}
}

func TestGuarantee3AWriteOfASettingLosesNoUnstoredRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 11)
		storage.Refuse.Store(true)
		e.Request(logical.ReadOperation, "creds/prod", nil)
		storage.Refuse.Store(false)
		e.Write("config/kensho/prod", map[string]any{"description": "x"})
		time.Sleep(6 * time.Second) // the engine retries the write
		e.Creds("prod")
		e.Restart()
		engine.Until(2, 0, 11)
		e.Creds("prod")
	})
}

func TestGuarantee3AWriteOfASettingKeepsTheRefreshTokenForARepeatedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		e.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
		storage.Refuse.Store(true)
		e.Request(logical.UpdateOperation, "config/kensho/new", map[string]any{"refresh_token": engine.AnotherToken})
		storage.Refuse.Store(false)
		e.Write("config/kensho/new", map[string]any{"refresh_token": engine.AnotherToken, "description": "x", "expires": "2001-01-01", "request_timeout": 20})
	})
}
