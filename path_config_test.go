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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestSecretsGoInAndNeverComeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		for path, secrets := range map[string]map[string]any{
			"config/kensho/refresh":  {"refresh_token": engine.RefreshToken},
			"config/kensho/keys":     {"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()},
			"config/kensho/pasted":   {"access_token": "an-access-token"},
			"config/sitecore/search": {"api_key": engine.APIKey},
		} {
			e.Write(path, secrets)
			read, err := json.Marshal(e.Read(path).Data)
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
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "request_timeout": "20s"})
		assert.Equal(t, map[string]any{
			"product":            "link",
			"request_timeout":    20,
			"keepalive_interval": 86400,
			"secrets_set":        []string{"refresh_token"},
		}, e.Read("config/kensho/prod").Data)

		e.Write("config/sitecore/prod2", map[string]any{
			"api_key": engine.APIKey, "scope": "discover,event", "access_expiry": "12h", "refresh_expiry": 259200, "base_url": "https://api-staging.rfksrv.com",
		})
		assert.Equal(t, map[string]any{
			"scope":              []string{"discover", "event"},
			"access_expiry":      43200,
			"refresh_expiry":     259200,
			"base_url":           "https://api-staging.rfksrv.com",
			"request_timeout":    10,
			"keepalive_interval": 86400,
			"secrets_set":        []string{"api_key"},
		}, e.Read("config/sitecore/prod2").Data)
	})
}

func TestNamesAreListedWithTheirProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		_, status, _ := e.Request(logical.ListOperation, "config/", nil)
		assert.Equal(t, http.StatusNotFound, status, "an empty list is Vault's 404")

		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		list := func(path string) map[string]any {
			resp, status, message := e.Request(logical.ListOperation, path, nil)
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
		e := engine.New(t)
		e.Sim.AddRefreshToken("scribe", "of-scribe")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "of-scribe", "product": "scribe"})

		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			_, status, message := e.Request(op, "config/kensho/prod", map[string]any{"request_timeout": 15, "verify": true})
			require.Equal(t, 200, status, message)
			assert.Equal(t, "scribe", e.Read("config/kensho/prod").Data["product"])
			assert.Equal(t, 15, e.Read("config/kensho/prod").Data["request_timeout"])
			e.Creds("prod")
		}
		_, status, message := e.Request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": nil, "verify": true})
		require.Equal(t, 200, status, message)
		assert.Equal(t, 10, e.Read("config/kensho/prod").Data["request_timeout"], "null clears a field")

		_, status, _ = e.Request(logical.PatchOperation, "config/kensho/other", map[string]any{"request_timeout": 15, "verify": true})
		assert.Equal(t, http.StatusNotFound, status, "there is nothing to patch")
		_, status, _ = e.Request(logical.ReadOperation, "config/kensho/other", nil)
		assert.Equal(t, http.StatusNotFound, status)
	})
}

func TestACredentialChangesItsKindInOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "", "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()})
		assert.Equal(t, []string{"private_key"}, e.Read("config/kensho/prod").Data["secrets_set"])
		assert.Equal(t, []string{"kensho:app:link"}, e.Creds("prod").Data["scope"])
	})
}

func TestARejectedCredentialIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for path, data := range map[string]map[string]any{
			"config/kensho/prod":   {"refresh_token": "of-nobody"},
			"config/kensho/keys":   {"client_id": "0oa-of-nobody", "private_key": engine.PrivateKeyPEM()},
			"config/sitecore/prod": {"api_key": "01-of-nobody"},
		} {
			_, status, message := e.Request(logical.UpdateOperation, path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "rejected the credential")
			assert.Contains(t, message, "401", "the vendor's own reason")
			assert.NotContains(t, message, "of-nobody")
		}
		engine.AssertStorageEmpty(t, e)
	})
}

func TestAnUncheckedCredentialIsStoredOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(503, `"down for maintenance"`))})
		_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "verify=false")
		engine.AssertStorageEmpty(t, e)

		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		assert.Equal(t, 1, e.Exchanges(), "verify=false does not call the vendor")
		e.Sim.Behave(vendorsim.Conduct{})
		e.Creds("prod")

		e.Write("config/kensho/prod", map[string]any{"request_timeout": 15, "verify": true})
		assert.Equal(t, 3, e.Exchanges(), "verify=false is for one write")
	})
}

func TestARefusedWriteLeavesTheCredentialAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		token := e.Creds("prod").Data["access_token"]
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": "of-nobody"})
		require.Equal(t, http.StatusBadRequest, status)

		e.Restart()
		assert.Equal(t, token, e.Creds("prod").Data["access_token"])
		engine.Until(1, 0, 5)
		e.Creds("prod")
	})
}

func TestAReplacedRefreshTokenOutlivesAWriteOfOtherFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		e.Creds("prod")

		for i, fields := range []map[string]any{
			{"request_timeout": 11, "verify": true},
			{"request_timeout": 12, "verify": false},
			{"refresh_token": engine.RefreshToken, "verify": false}, // the one that is stored already
			{"refresh_token": engine.RefreshToken},
		} {
			e.Write("config/kensho/prod", fields)
			e.Restart()
			engine.Until(2+i, 0, 5)
			e.Creds("prod")
		}
	})
}

func TestAnOperatorsRefreshTokenWinsOverTheReplacedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Sim.AddRefreshToken("link-streaming", "the-operators-next")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "the-operators-next"})
		calls := e.Sim.Calls()
		assert.Contains(t, calls[len(calls)-1].URL, "the-operators-next")
	})
}

func TestHowAClientProvesItselfIsFoundOutAnewWithEachWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		client := vendorsim.OAuthClient{
			ID: engine.ClientID, Secret: engine.ClientSecret, Rotate: true, Grants: []string{vendorsim.RefreshTokenGrant}, AuthMethods: []string{vendorsim.SecretPost},
		}
		e.Sim.AddOAuthClient(client)
		e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken)
		e.Write("config/oauth2/user", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "refresh_token": engine.RefreshToken,
		})
		e.Write("refresh/user", nil) // with the refresh token that took the other's place
		calls := e.Exchanges()
		e.Write("refresh/user", nil)
		require.Equal(t, calls+1, e.Exchanges(), "what worked is remembered")

		client.AuthMethods = []string{vendorsim.SecretBasic}
		e.Sim.AddOAuthClient(client)
		e.Write("config/oauth2/user", map[string]any{"request_timeout": 20, "verify": true})
		e.Creds("user")
	})
}

func TestAPastedTokenThatIsWrittenAgainLivesNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 20, 0)
		e.Write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		engine.Until(1, 20, 0)
		for _, fields := range []map[string]any{{"access_token": "pasted-access-token"}, {"refresh_token": ""}} {
			_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", fields)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "died at 2000-01-01T00:59:58Z")
		}
	})
}

func TestARequestTimeoutIsWhatTheOperatorSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		asked := time.Now()
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "request_timeout": 3})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, 3*time.Second, time.Since(asked))
	})
}

func TestAVerificationThatNobodyWaitsForIsSeenThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 4 * time.Second})
		impatient, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		_, err := e.Backend.HandleRequest(impatient, &logical.Request{
			Operation: logical.CreateOperation, Path: "config/kensho/prod", Storage: e.Storage, Data: map[string]any{"refresh_token": engine.RefreshToken},
		})
		require.NoError(t, err)
		engine.Until(1, 0, 5)
		e.Creds("prod") // with the refresh token that replaced the written one
	})
}

func TestStorageThatFailsIsA500AndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		e.Creds("prod")

		storage.RefuseReads.Store(true)
		e.Restart()
		for _, request := range []struct {
			op   logical.Operation
			path string
		}{
			{logical.ReadOperation, "creds/prod"}, {logical.ReadOperation, "status/prod"}, {logical.ReadOperation, "config/kensho/prod"},
			{logical.PatchOperation, "config/kensho/prod"}, {logical.UpdateOperation, "refresh/prod"}, {logical.ListOperation, "config/"},
		} {
			_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: request.op, Path: request.path, Storage: e.Storage, Data: map[string]any{}})
			require.ErrorContains(t, err, "the disk is full", "%s %s", request.op, request.path)
		}
		storage.RefuseReads.Store(false)
		engine.Until(2, 0, 5)
		e.Creds("prod")
	})
}

func TestAWriteThatCannotSeeWhatWasReplacedChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		e.Creds("prod") // replaces the refresh token, in state/
		storage.RefuseState.Store(true)
		e.Restart()
		_, status, message := e.Request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": false})
		assert.Equal(t, http.StatusInternalServerError, status, message)
		storage.RefuseState.Store(false)
		engine.Until(2, 0, 5)
		e.Creds("prod")
	})
}

func TestDeletingOneNameLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("config/kensho/other", map[string]any{"refresh_token": "another-refresh-token"})
		engine.Until(1, 0, 5)
		e.Creds("prod")
		token := e.Creds("other").Data["access_token"]
		for _, path := range []string{"config/kensho/prod", "config/sitecore/other", "config/kensho/prod"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		left, err := logical.CollectKeys(t.Context(), e.Storage)
		require.NoError(t, err)
		assert.ElementsMatch(t, []string{"config/kensho/other", "state/other/own"}, left)
		e.Restart()
		assert.Equal(t, token, e.Creds("other").Data["access_token"])
	})
}

func TestANameBelongsToOneProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		token := e.Creds("prod").Data["access_token"]

		_, status, message := e.Request(logical.UpdateOperation, "config/sitecore/prod", map[string]any{"api_key": engine.APIKey})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "belongs to config/kensho/prod")
		_, status, _ = e.Request(logical.DeleteOperation, "config/sitecore/prod", nil)
		assert.Equal(t, 200, status, "what is not there is deleted already")

		e.Restart()
		assert.Equal(t, token, e.Creds("prod").Data["access_token"])
	})
}
