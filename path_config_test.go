package tokenbroker_test

import (
	"context"
	"encoding/json"
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

func TestSecretsGoInAndNeverComeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 10, 0)
		for path, secrets := range map[string]map[string]any{
			"config/kensho/refresh":  {"refresh_token": refreshToken},
			"config/kensho/keys":     {"client_id": clientID, "private_key": privateKeyPEM()},
			"config/kensho/pasted":   {"access_token": "an-access-token"},
			"config/sitecore/search": {"api_key": apiKey},
		} {
			e.write(path, secrets)
			read, err := json.Marshal(e.read(path).Data)
			require.NoError(t, err)
			for field, secret := range secrets {
				if field == "client_id" {
					continue
				}
				assert.NotContains(t, string(read), strings.TrimSpace(secret.(string))[:8], path)
				assert.Contains(t, string(read), field, "%s says which secrets are stored", path)
			}
		}
	})
}

func TestAConfigIsReadWithItsDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "request_timeout": "20s"})
		assert.Equal(t, map[string]any{
			"product":            "link",
			"request_timeout":    20,
			"keepalive_interval": 86400,
			"secrets_set":        []string{"refresh_token"},
		}, e.read("config/kensho/prod").Data)

		e.write("config/sitecore/prod2", map[string]any{
			"api_key": apiKey, "scope": "discover,event", "access_expiry": "12h", "refresh_expiry": 259200, "base_url": "https://api-staging.rfksrv.com",
		})
		assert.Equal(t, map[string]any{
			"scope":              []string{"discover", "event"},
			"access_expiry":      43200,
			"refresh_expiry":     259200,
			"base_url":           "https://api-staging.rfksrv.com",
			"request_timeout":    10,
			"keepalive_interval": 86400,
			"secrets_set":        []string{"api_key"},
		}, e.read("config/sitecore/prod2").Data)
	})
}

func TestNamesAreListedWithTheirProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		_, status, _ := e.request(logical.ListOperation, "config/", nil)
		assert.Equal(t, http.StatusNotFound, status, "an empty list is Vault's 404")

		e.write("config/sitecore/search", map[string]any{"api_key": apiKey})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		list := func(path string) map[string]any {
			resp, status, message := e.request(logical.ListOperation, path, nil)
			require.Equal(t, 200, status, message)
			return resp.Data
		}
		ofKensho, ofSitecore := map[string]any{"provider": "kensho"}, map[string]any{"provider": "sitecore"}
		assert.Equal(t, map[string]any{
			"keys":     []string{"prod", "search"},
			"key_info": map[string]any{"prod": ofKensho, "search": ofSitecore},
		}, list("config/"))
		assert.Equal(t, map[string]any{"keys": []string{"prod"}, "key_info": map[string]any{"prod": ofKensho}}, list("config/kensho/"))
		assert.Equal(t, map[string]any{"keys": []string{"search"}, "key_info": map[string]any{"search": ofSitecore}}, list("config/sitecore/"))
	})
}

func TestAWriteChangesTheFieldsThatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddRefreshToken("scribe", "of-scribe")
		e.write("config/kensho/prod", map[string]any{"refresh_token": "of-scribe", "product": "scribe"})

		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			_, status, message := e.request(op, "config/kensho/prod", map[string]any{"request_timeout": 15, "verify": true})
			require.Equal(t, 200, status, message)
			assert.Equal(t, "scribe", e.read("config/kensho/prod").Data["product"])
			assert.Equal(t, 15, e.read("config/kensho/prod").Data["request_timeout"])
			e.creds("prod")
		}
		_, status, message := e.request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": nil, "verify": true})
		require.Equal(t, 200, status, message)
		assert.Equal(t, 10, e.read("config/kensho/prod").Data["request_timeout"], "null clears a field")

		_, status, _ = e.request(logical.PatchOperation, "config/kensho/other", map[string]any{"request_timeout": 15, "verify": true})
		assert.Equal(t, http.StatusNotFound, status, "there is nothing to patch")
		_, status, _ = e.request(logical.ReadOperation, "config/kensho/other", nil)
		assert.Equal(t, http.StatusNotFound, status)
	})
}

func TestACredentialChangesItsKindInOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.write("config/kensho/prod", map[string]any{"refresh_token": "", "client_id": clientID, "private_key": privateKeyPEM()})
		assert.Equal(t, []string{"private_key"}, e.read("config/kensho/prod").Data["secrets_set"])
		assert.Equal(t, []string{"kensho:app:link"}, e.creds("prod").Data["scope"])
	})
}

func TestARejectedCredentialIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		for path, data := range map[string]map[string]any{
			"config/kensho/prod":   {"refresh_token": "of-nobody"},
			"config/kensho/keys":   {"client_id": "0oa-of-nobody", "private_key": privateKeyPEM()},
			"config/sitecore/prod": {"api_key": "01-of-nobody"},
		} {
			_, status, message := e.request(logical.UpdateOperation, path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "rejected the credential")
			assert.Contains(t, message, "401", "the vendor's own reason")
			assert.NotContains(t, message, "of-nobody")
		}
		assertStorageEmpty(t, e)
	})
}

func TestAnUncheckedCredentialIsStoredOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(503, `"down for maintenance"`))})
		_, status, message := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "verify=false")
		assertStorageEmpty(t, e)

		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		assert.Equal(t, 1, e.exchanges(), "verify=false does not call the vendor")
		e.sim.Behave(vendorsim.Conduct{})
		e.creds("prod")

		e.write("config/kensho/prod", map[string]any{"request_timeout": 15, "verify": true})
		assert.Equal(t, 3, e.exchanges(), "verify=false is for one write")
	})
}

func TestARefusedWriteLeavesTheCredentialAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		token := e.creds("prod").Data["access_token"]
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": "of-nobody"})
		require.Equal(t, http.StatusBadRequest, status)

		e.restart()
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
		until(1, 0, 5)
		e.creds("prod")
	})
}

func TestAReplacedRefreshTokenOutlivesAWriteOfOtherFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Rotate: true})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		e.creds("prod")

		for i, fields := range []map[string]any{
			{"request_timeout": 11, "verify": true},
			{"request_timeout": 12, "verify": false},
			{"refresh_token": refreshToken, "verify": false}, // the one that is stored already
			{"refresh_token": refreshToken},
		} {
			e.write("config/kensho/prod", fields)
			e.restart()
			until(2+i, 0, 5)
			e.creds("prod")
		}
	})
}

func TestAnOperatorsRefreshTokenWinsOverTheReplacedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Rotate: true})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.sim.AddRefreshToken("link-streaming", "the-operators-next")
		e.write("config/kensho/prod", map[string]any{"refresh_token": "the-operators-next"})
		calls := e.sim.Calls()
		assert.Contains(t, calls[len(calls)-1].URL, "the-operators-next")
	})
}

func TestHowAClientProvesItselfIsFoundOutAnewWithEachWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		client := vendorsim.OAuthClient{
			ID: clientID, Secret: clientSecret, Rotate: true, Grants: []string{vendorsim.RefreshTokenGrant}, AuthMethods: []string{vendorsim.SecretPost},
		}
		e.sim.AddOAuthClient(client)
		e.sim.AddOAuthRefreshToken(client, refreshToken)
		e.write("config/oauth2/user", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": clientID, "client_secret": clientSecret, "refresh_token": refreshToken,
		})
		e.write("refresh/user", nil) // with the refresh token that took the other's place
		calls := e.exchanges()
		e.write("refresh/user", nil)
		require.Equal(t, calls+1, e.exchanges(), "what worked is remembered")

		client.AuthMethods = []string{vendorsim.SecretBasic}
		e.sim.AddOAuthClient(client)
		e.write("config/oauth2/user", map[string]any{"request_timeout": 20, "verify": true})
		e.creds("user")
	})
}

func TestAPastedTokenThatIsWrittenAgainLivesNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 20, 0)
		e.write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		until(1, 20, 0)
		for _, fields := range []map[string]any{{"access_token": "pasted-access-token"}, {"refresh_token": ""}} {
			_, status, message := e.request(logical.UpdateOperation, "config/kensho/prod", fields)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "died at 2000-01-01T00:59:58Z")
		}
	})
}

func TestARequestTimeoutIsWhatTheOperatorSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		asked := time.Now()
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken, "request_timeout": 3})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, 3*time.Second, time.Since(asked))
	})
}

func TestAVerificationThatNobodyWaitsForIsSeenThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 10, 0)
		e.sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 4 * time.Second})
		impatient, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		_, err := e.backend.HandleRequest(impatient, &logical.Request{
			Operation: logical.CreateOperation, Path: "config/kensho/prod", Storage: e.storage, Data: map[string]any{"refresh_token": refreshToken},
		})
		require.NoError(t, err)
		until(1, 0, 5)
		e.creds("prod") // with the refresh token that replaced the written one
	})
}

func TestStorageThatFailsIsA500AndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		e.creds("prod")

		storage.refuseReads.Store(true)
		e.restart()
		for _, request := range []struct {
			op   logical.Operation
			path string
		}{
			{logical.ReadOperation, "creds/prod"}, {logical.ReadOperation, "status/prod"}, {logical.ReadOperation, "config/kensho/prod"},
			{logical.PatchOperation, "config/kensho/prod"}, {logical.UpdateOperation, "refresh/prod"}, {logical.ListOperation, "config/"},
		} {
			_, err := e.backend.HandleRequest(t.Context(), &logical.Request{Operation: request.op, Path: request.path, Storage: e.storage, Data: map[string]any{}})
			require.ErrorContains(t, err, "the disk is full", "%s %s", request.op, request.path)
		}
		storage.refuseReads.Store(false)
		until(2, 0, 5)
		e.creds("prod")
	})
}

func TestAWriteThatCannotSeeWhatWasReplacedChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		until(1, 0, 5)
		e.creds("prod") // replaces the refresh token, in state/
		storage.refuseState.Store(true)
		e.restart()
		_, status, message := e.request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": false})
		assert.Equal(t, http.StatusInternalServerError, status, message)
		storage.refuseState.Store(false)
		until(2, 0, 5)
		e.creds("prod")
	})
}

func TestDeletingOneNameLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.write("config/kensho/other", map[string]any{"refresh_token": "another-refresh-token"})
		until(1, 0, 5)
		e.creds("prod")
		token := e.creds("other").Data["access_token"]
		for _, path := range []string{"config/kensho/prod", "config/sitecore/other", "config/kensho/prod"} {
			_, status, message := e.request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		left, err := logical.CollectKeys(t.Context(), e.storage)
		require.NoError(t, err)
		assert.ElementsMatch(t, []string{"config/kensho/other", "state/other/own"}, left)
		e.restart()
		assert.Equal(t, token, e.creds("other").Data["access_token"])
	})
}

func TestANameBelongsToOneProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		token := e.creds("prod").Data["access_token"]

		_, status, message := e.request(logical.UpdateOperation, "config/sitecore/prod", map[string]any{"api_key": apiKey})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "belongs to config/kensho/prod")
		_, status, _ = e.request(logical.DeleteOperation, "config/sitecore/prod", nil)
		assert.Equal(t, 200, status, "what is not there is deleted already")

		e.restart()
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
	})
}
