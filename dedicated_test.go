package tokenbroker_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestADedicatedTokenLivesAndDiesWithItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		first, second := e.creds("mine"), e.creds("mine")
		assert.NotEqual(t, tokenOf(first), tokenOf(second))
		assert.Equal(t, []string{"read"}, first.Data["scope"])
		shared := e.creds("api")
		assert.NotContains(t, []string{tokenOf(first), tokenOf(second)}, tokenOf(shared))
		assert.Equal(t, 3, e.exchanges())

		e.restart()
		require.NoError(t, e.revoke(first))
		assert.Equal(t, []string{tokenOf(first)}, e.sim.Revoked())
		assert.True(t, e.sim.Accepts(tokenOf(second)))
		require.NoError(t, e.revoke(first), "Vault may ask twice")
		require.NoError(t, e.revoke(shared))
		assert.True(t, e.sim.Accepts(tokenOf(shared)), "a shared token's revocation is local")
		assert.Len(t, e.leased(), 1)
	})
}

func TestADedicatedTokenThatCannotBeRevokedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		e.sim.Behave(down())
		err := e.revoke(lease)
		require.ErrorContains(t, err, "the token cannot be revoked at the vendor: auth.example.com: 503 Service Unavailable: down")
		assert.NotContains(t, err.Error(), tokenOf(lease))
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`))})
		require.ErrorContains(t, e.revoke(lease), "internal_error")
		assert.Len(t, e.leased(), 1)
		e.sim.Behave(vendorsim.Conduct{})
		require.NoError(t, e.revoke(lease))
		assert.False(t, e.sim.Accepts(tokenOf(lease)))
	})
}

func TestALeaseEndsThoughTheVendorDoesNotRevokeSuchTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusBadRequest, `{"error":"unsupported_token_type"}`))})
		require.NoError(t, e.revoke(lease), "trying again never helps")
		assert.Empty(t, e.leased())
	})
}

func TestALeaseEndsThoughItsTokenIsThatOfAnEarlierClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		e.sim.AddOAuthClient(vendorsim.OAuthClient{
			ID: nextClientID, Secret: clientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
			Grants: []string{vendorsim.ClientCredentialsGrant},
		})
		e.write("config/oauth2/api", map[string]any{"client_id": nextClientID})
		require.NoError(t, e.revoke(lease), "the vendor answers unauthorized_client, and will again")
		assert.Empty(t, e.leased())
	})
}

func TestADedicatedTokenThatHasDiedIsDoneWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		time.Sleep(time.Hour + time.Second)
		e.sim.Behave(down())
		calls := e.exchanges()
		require.NoError(t, e.revoke(lease))
		assert.Equal(t, calls, e.exchanges(), "the vendor need not be asked")
		assert.Empty(t, e.leased())
	})
}

func TestMaxLeasesBoundsTheTokensThatLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		first := e.creds("mine")
		e.creds("mine")
		e.creds("mine")
		calls := e.exchanges()
		status, message := e.refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
		assert.Contains(t, message, "roles/mine has its max_leases of 3")
		assert.Equal(t, calls, e.exchanges(), "the vendor is spared")

		require.NoError(t, e.revoke(first))
		e.creds("mine")
		e.refused("creds/mine")
		time.Sleep(time.Hour + time.Second)
		e.creds("mine")
		time.Sleep(24*time.Hour + time.Second)
		e.creds("mine")
		assert.Len(t, e.leased(), 2, "what is left of those that expired a day ago goes away")
		e.creds("api")
	})
}

func TestADeletedCredentialsDedicatedTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		shared := e.creds("api")
		for _, path := range []string{"roles/mine", "config/oauth2/api"} {
			_, status, message := e.request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		assert.ElementsMatch(t, []string{tokenOf(lease), tokenOf(shared)}, e.sim.Revoked())
		require.NoError(t, e.revoke(lease), "failing ones would pile up")
		assertStorageEmpty(t, e)
	})
}

func TestGuarantee8ACredentialWhoseDedicatedTokensStorageWillNotTellIsNotDeleted(t *testing.T) {
	for name, refused := range map[string]storageCall{
		"which there are": {"list", "lease/api/"},
		"what they are":   {"get", "lease/api/mine/"},
		"that one ended":  {"delete", "lease/api/mine/"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newOAuthEngine(t)
				lease := e.creds("mine")
				e.request(logical.DeleteOperation, "roles/mine", nil)
				storage := e.moody()
				meet := func(c storageCall) mood {
					if c.op == refused.op && strings.HasPrefix(c.key, refused.key) {
						return mood{err: errStorage}
					}
					return mood{}
				}
				storage.meet.Store(&meet)
				_, status, _ := e.request(logical.DeleteOperation, "config/oauth2/api", nil)
				assert.Equal(t, http.StatusInternalServerError, status, "nobody could end the token later")
				storage.meet.Store(nil)
				e.creds("api")
				_, status, _ = e.request(logical.DeleteOperation, "config/oauth2/api", nil)
				assert.Equal(t, http.StatusOK, status)
				assert.False(t, e.sim.Accepts(tokenOf(lease)))
				assertStorageEmpty(t, e)
			})
		})
	}
}

func TestADedicatedReadLooksAtItsCredentialsTokensAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.creds("mine")
		storage := e.moody()
		e.creds("mine")
		var listed []string
		for _, call := range storage.calls() {
			if call.op == "list" {
				listed = append(listed, call.key)
			}
		}
		require.Len(t, listed, 3, "once")
		assert.Equal(t, []string{"lease/api/", "lease/api/mine/"}, listed[:2])
		assert.True(t, strings.HasPrefix(listed[2], "lease/api/mine/"))
	})
}

func TestADedicatedTokenThatCannotBeWrittenDownIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.creds("api")
		storage := e.moody()
		live := e.sim.Live()
		for i, refuse := range []*atomic.Bool{&storage.refuseLease, &storage.refuse} {
			refuse.Store(true)
			status, _ := e.refused("creds/mine")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Equal(t, live, e.sim.Live())
			assert.Len(t, e.sim.Revoked(), i+1)
			refuse.Store(false)
		}
	})
}

func TestADedicatedTokenIsNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("roles/ours", map[string]any{"config": "api", "scope": "read"})
		mine := tokenOf(e.creds("mine"))
		ours := tokenOf(e.creds("ours"))
		assert.NotEqual(t, mine, ours)
		e.creds("mine")
		assert.Equal(t, ours, tokenOf(e.creds("ours")))
	})
}

func TestADedicatedTokenOfACredentialThatIsGoneIsDoneWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		require.NoError(t, e.storage.Delete(t.Context(), "config/oauth2/api"))
		e.restart()
		require.NoError(t, e.revoke(lease))
		assert.Empty(t, e.leased())
	})
}

func TestADedicatedRoleIsRefusedWhereATokenCannotBeRevokedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("config/oauth2/plain", secretClient(false))
		client := vendorsim.OAuthClient{
			ID: "rotating", Secret: clientSecret, Rotate: true, Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.RefreshTokenGrant},
		}
		e.sim.AddOAuthClient(client)
		e.sim.AddOAuthRefreshToken(client, "a-rotating-token-0123456789", "read")
		rotating := secretClient(true)
		rotating["client_id"], rotating["refresh_token"], rotating["scope"] = "rotating", "a-rotating-token-0123456789", "read"
		e.write("config/oauth2/rotating", rotating)
		for config, says := range map[string]string{
			"plain":    "dedicated: the vendor has no revocation endpoint: set revocation_url",
			"rotating": "dedicated: the vendor may end the refresh token together with an access token",
		} {
			_, status, message := e.request(logical.UpdateOperation, "roles/other", map[string]any{"config": config, "dedicated": true})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, says)
		}
		status, message := e.refused("token/mine")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "roles/mine is dedicated, and a token of its own is leased: read creds/mine")
	})
}

func TestGuarantee4DedicatedReadersLeaveAVendorAloneThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.sim.Behave(down())
		for range 5 {
			status, message := e.refused("creds/mine")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Contains(t, message, "next attempt at")
		}
		assert.Equal(t, 2, e.exchanges(), "the verification, and one attempt")
		assert.Equal(t, "failed", e.read("status/api").Data["state"], "some readers do not get a token")
	})
}

func TestADedicatedReaderWhoGoesAwayLeavesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		live := e.sim.Live()
		for range 4 {
			impatient, hangUp := context.WithTimeout(t.Context(), time.Second)
			_, err := e.backend.HandleRequest(impatient, &logical.Request{Operation: logical.ReadOperation, Path: "creds/mine", Storage: e.storage})
			require.Error(t, err)
			hangUp()
		}
		assert.Equal(t, live, e.sim.Live())
		assert.Empty(t, e.leased())
	})
}

func TestADedicatedRoleIsRefusedOnceItsTokensCannotBeRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		resp, _, _ := e.request(logical.UpdateOperation, "config/oauth2/api", map[string]any{"revocation_url": ""})
		require.NotNil(t, resp)
		assert.Equal(t, []string{"roles/mine can no longer be read: the vendor has no revocation endpoint: set revocation_url, if it has one after all"}, resp.Warnings)
		status, message := e.refused("creds/mine")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor has no revocation endpoint")
	})
}

func TestADedicatedTokenThatOthersHaveIsRefusedAndLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("roles/whole", map[string]any{"config": "api", "dedicated": true})
		e.sim.Behave(vendorsim.Conduct{Sticky: true})
		e.write("refresh/api", nil)
		shared := tokenOf(e.creds("api"))
		status, message := e.refused("creds/whole")
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, message, "no reader can have one of his own")
		assert.True(t, e.sim.Accepts(shared))

		first := e.creds("mine")
		e.refused("creds/mine")
		assert.True(t, e.sim.Accepts(tokenOf(first)))
	})
}

func TestDeletingACredentialDoesNotWaitForAVendorWhoHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("roles/mine", map[string]any{"max_leases": 0})
		for range 25 {
			e.creds("mine")
		}
		e.creds("api")
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		_, status, _ := e.request(logical.DeleteOperation, "roles/mine", nil)
		require.Equal(t, http.StatusOK, status)
		asked := time.Now()
		_, status, message := e.request(logical.DeleteOperation, "config/oauth2/api", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.LessOrEqual(t, time.Since(asked), time.Minute)
		assertStorageEmpty(t, e)
	})
}
