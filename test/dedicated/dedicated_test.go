package dedicated_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestADedicatedTokenIsRevokedWithItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		first, second := e.Creds("mine"), e.Creds("mine")
		assert.NotEqual(t, engine.TokenOf(first), engine.TokenOf(second))
		assert.Equal(t, []string{"read"}, first.Data["scope"])
		shared := e.Creds("api")
		assert.NotContains(t, []string{engine.TokenOf(first), engine.TokenOf(second)}, engine.TokenOf(shared))
		assert.Equal(t, 3, e.Exchanges())

		e.Restart()
		require.NoError(t, e.Revoke(first))
		assert.Equal(t, []string{engine.TokenOf(first)}, e.Sim.Revoked())
		assert.True(t, e.Sim.Accepts(engine.TokenOf(second)))
		require.NoError(t, e.Revoke(first), "Vault may revoke a lease twice")
		require.NoError(t, e.Revoke(shared))
		assert.True(t, e.Sim.Accepts(engine.TokenOf(shared)), "a shared token is not revoked at the vendor")
		assert.Len(t, e.Leased(), 1)
	})
}

func TestAFailedRevocationOfALeaseIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		e.Sim.Behave(engine.Down())
		err := e.Revoke(lease)
		require.ErrorContains(t, err, "the token cannot be revoked at the vendor: auth.example.com: 503 Service Unavailable: down")
		assert.NotContains(t, err.Error(), engine.TokenOf(lease))
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`))})
		require.ErrorContains(t, e.Revoke(lease), "internal_error")
		assert.Len(t, e.Leased(), 1)
		e.Sim.Behave(vendorsim.Conduct{})
		require.NoError(t, e.Revoke(lease))
		assert.False(t, e.Sim.Accepts(engine.TokenOf(lease)))
	})
}

func TestALeaseEndsIfTheVendorDoesNotSupportRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusBadRequest, `{"error":"unsupported_token_type"}`))})
		require.NoError(t, e.Revoke(lease), "a retry cannot succeed")
		assert.Empty(t, e.Leased())
	})
}

func TestALeaseEndsIfItsTokenBelongsToAnEarlierClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		e.Sim.AddOAuthClient(vendorsim.OAuthClient{
			ID: engine.NextClientID, Secret: engine.ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
			Grants: []string{vendorsim.ClientCredentialsGrant},
		})
		e.Write("config/oauth2/api", map[string]any{"client_id": engine.NextClientID})
		require.NoError(t, e.Revoke(lease), "the vendor answers unauthorized_client, which a retry does not change")
		assert.Empty(t, e.Leased())
	})
}

func TestRevokingAnExpiredTokenCallsNoVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		time.Sleep(time.Hour + time.Second)
		e.Sim.Behave(engine.Down())
		calls := e.Exchanges()
		require.NoError(t, e.Revoke(lease))
		assert.Equal(t, calls, e.Exchanges(), "the vendor is not called")
		assert.Empty(t, e.Leased())
	})
}

func TestMaxLeasesBoundsTheValidTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		first := e.Creds("mine")
		e.Creds("mine")
		e.Creds("mine")
		calls := e.Exchanges()
		status, message := e.Refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
		assert.Contains(t, message, "roles/mine has reached its max_leases of 3")
		assert.Equal(t, calls, e.Exchanges(), "the vendor is not called")

		require.NoError(t, e.Revoke(first))
		e.Creds("mine")
		e.Refused("creds/mine")
		time.Sleep(time.Hour + time.Second)
		e.Creds("mine")
		time.Sleep(24*time.Hour + time.Second)
		e.Creds("mine")
		assert.Len(t, e.Leased(), 2, "the entries of tokens that expired a day ago are deleted")
		e.Creds("api")
	})
}

func TestDeletingACredentialRevokesItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		shared := e.Creds("api")
		for _, path := range []string{"roles/mine", "config/oauth2/api"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		assert.ElementsMatch(t, []string{engine.TokenOf(lease), engine.TokenOf(shared)}, e.Sim.Revoked())
		require.NoError(t, e.Revoke(lease), "Vault would keep a lease whose revocation fails")
		engine.AssertStorageEmpty(t, e)
	})
}

func TestADedicatedReadListsOnlyItsCredentialsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Creds("mine")
		storage := e.BreakStorage()
		e.Creds("mine")
		var listed []string
		for _, call := range storage.Calls() {
			if call.Op == "list" {
				listed = append(listed, call.Key)
			}
		}
		require.Len(t, listed, 3, "each prefix is listed once")
		assert.Equal(t, []string{"lease/api/", "lease/api/mine/"}, listed[:2])
		assert.True(t, strings.HasPrefix(listed[2], "lease/api/mine/"))
	})
}

func TestADedicatedTokenThatCannotBeStoredIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Creds("api")
		storage := e.BreakStorage()
		valid := e.Sim.ValidTokens()
		for i, refuse := range []*atomic.Bool{&storage.RefuseLease, &storage.Refuse} {
			refuse.Store(true)
			status, _ := e.Refused("creds/mine")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Equal(t, valid, e.Sim.ValidTokens())
			assert.Len(t, e.Sim.Revoked(), i+1)
			refuse.Store(false)
		}
	})
}

func TestADedicatedTokenIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/ours", map[string]any{"config": "api", "scope": "read"})
		mine := engine.TokenOf(e.Creds("mine"))
		ours := engine.TokenOf(e.Creds("ours"))
		assert.NotEqual(t, mine, ours)
		e.Creds("mine")
		assert.Equal(t, ours, engine.TokenOf(e.Creds("ours")))
	})
}

func TestALeaseEndsIfItsCredentialIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		require.NoError(t, e.Storage.Delete(t.Context(), "config/oauth2/api"))
		e.Restart()
		require.NoError(t, e.Revoke(lease))
		assert.Empty(t, e.Leased())
	})
}

func TestADedicatedRoleNeedsAVendorThatRevokesSingleTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/plain", engine.SecretClient(false))
		client := vendorsim.OAuthClient{
			ID: "rotating", Secret: engine.ClientSecret, Rotate: true, Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.RefreshTokenGrant},
		}
		e.Sim.AddOAuthClient(client)
		e.Sim.AddOAuthRefreshToken(client, "a-rotating-token-0123456789", "read")
		rotating := engine.SecretClient(true)
		rotating["client_id"], rotating["refresh_token"], rotating["scope"] = "rotating", "a-rotating-token-0123456789", "read"
		e.Write("config/oauth2/rotating", rotating)
		for config, says := range map[string]string{
			"rotating": "dedicated: the vendor may revoke the refresh token together with an access token",
		} {
			_, status, message := e.Request(logical.UpdateOperation, "roles/other", map[string]any{"config": config, "dedicated": true})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, says)
		}
		status, message := e.Refused("token/mine")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "roles/mine is a dedicated role, whose tokens need a lease; read creds/mine instead")
	})
}

func TestACanceledDedicatedReadLeavesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		valid := e.Sim.ValidTokens()
		for range 4 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := e.Backend.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/mine", Storage: e.Storage})
			require.Error(t, err)
			cancel()
		}
		assert.Equal(t, valid, e.Sim.ValidTokens())
		assert.Empty(t, e.Leased())
	})
}

func TestWithoutARevocationEndpointADedicatedTokenOutlivesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/api", map[string]any{"revocation_url": ""})
		resp, status, message := e.Request(logical.UpdateOperation, "roles/mine", map[string]any{"max_leases": 2})
		require.Equal(t, http.StatusOK, status, message)
		require.NotNil(t, resp)
		assert.Equal(t, []string{"the vendor cannot revoke tokens, or its revocation endpoint is unknown: a token stays valid until it expires, also if its lease ends before"}, resp.Warnings)
		first, second := e.Creds("mine"), e.Creds("mine")
		assert.NotEqual(t, engine.TokenOf(first), engine.TokenOf(second))
		assert.Equal(t, []string{"the vendor cannot revoke this token: it stays valid until " + first.Data["expire_time"].(string) + ", also if its lease ends before"}, first.Warnings)
		status, _ = e.Refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
		require.NoError(t, e.Revoke(first))
		assert.True(t, e.Sim.Accepts(engine.TokenOf(first)), "nothing was revoked")
		e.Creds("mine")
	})
}

func TestADedicatedReadRejectsATokenThatIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/whole", map[string]any{"config": "api", "dedicated": true})
		e.Sim.Behave(vendorsim.Conduct{Sticky: true})
		e.Write("refresh/api", nil)
		shared := engine.TokenOf(e.Creds("api"))
		status, message := e.Refused("creds/whole")
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, message, "so the role cannot be dedicated")
		assert.True(t, e.Sim.Accepts(shared))

		first := e.Creds("mine")
		e.Refused("creds/mine")
		assert.True(t, e.Sim.Accepts(engine.TokenOf(first)))
	})
}

func TestDeletingACredentialDoesNotWaitForASlowVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/mine", map[string]any{"max_leases": 0})
		for range 25 {
			e.Creds("mine")
		}
		e.Creds("api")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		_, status, _ := e.Request(logical.DeleteOperation, "roles/mine", nil)
		require.Equal(t, http.StatusOK, status)
		started := time.Now()
		_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/api", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.LessOrEqual(t, time.Since(started), time.Minute)
		engine.AssertStorageEmpty(t, e)
	})
}
