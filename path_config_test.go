package tokenbroker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestSecretsAreStoredAndNotReturned(t *testing.T) {
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
				assert.Contains(t, string(read), field, "%s lists the secrets that are set", path)
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
			"max_variants":       1000,
			"resolved_urls":      []string{"https://link-streaming.kensho.com/oauth2/refresh"},
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
			"max_variants":       1000,
			"resolved_scope":     []string{"discover", "event"},
			"resolved_urls":      []string{"https://api-staging.rfksrv.com/account/1/access-token"},
			"secrets_set":        []string{"api_key"},
		}, e.Read("config/sitecore/prod2").Data)
	})
}

// A field is absent from a response only if its description says so.
func TestAResponseHasEachFieldThatIsNotDescribedAsAbsent(t *testing.T) {
	e := engine.New(t)
	e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
	e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
	e.Write("roles/web", map[string]any{"config": "prod"})
	e.Write("keypair/batch", nil)
	for _, path := range []string{"config/kensho/prod", "config/sitecore/search", "roles/web", "keypair/batch"} {
		data := e.Read(path).Data
		response := tokenbroker.Route(e.Backend, path).Operations[logical.ReadOperation].Properties().Responses[http.StatusOK][0]
		for name, schema := range response.Fields {
			mayBeAbsent := regexp.MustCompile(`Absent if|Omitted if|\(if any\)`).MatchString(schema.Description)
			_, isThere := data[name]
			assert.True(t, isThere || mayBeAbsent, "%s has no %s", path, name)
			if strings.Contains(schema.Description, "Absent if none is stored") {
				assert.False(t, isThere, "%s has %s, which is not stored", path, name)
			}
		}
	}
}

func TestAConfigIsReadWithWhatItsVendorResolvesTo(t *testing.T) {
	e := engine.New(t)
	e.Write("config/entra/billing", map[string]any{
		"tenant": "acme.onmicrosoft.com", "client_id": "c", "client_secret": "s", "scope": "https://graph.microsoft.com/.default", "verify": false,
	})
	data := e.Read("config/entra/billing").Data
	assert.Equal(t, []string{"https://login.microsoftonline.com/acme.onmicrosoft.com/oauth2/v2.0/token"}, data["resolved_urls"])
	assert.Equal(t, []string{"https://graph.microsoft.com/.default"}, data["resolved_scope"])

	e.Write("config/oauth2/crm", map[string]any{
		"issuer": "https://login.example.com", "client_id": "c", "client_secret": "s", "verify": false,
	})
	assert.Equal(t, []string{"https://login.example.com"}, e.Read("config/oauth2/crm").Data["resolved_urls"])

	e.Write("config/oauth2/erp", map[string]any{
		"token_url": "https://erp.example.com/token?tenant=secret", "client_id": "c", "client_secret": "s", "verify": false,
	})
	assert.Equal(t, []string{"https://erp.example.com/token"}, e.Read("config/oauth2/erp").Data["resolved_urls"])
}

func TestListsShowTheVendorOfEachName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		_, status, _ := e.Request(logical.ListOperation, "config/", nil)
		assert.Equal(t, http.StatusNotFound, status, "Vault answers an empty list with 404")

		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		list := func(path string) map[string]any {
			resp, status, message := e.Request(logical.ListOperation, path, nil)
			require.Equal(t, 200, status, message)
			return resp.Data
		}
		ofKensho, ofSitecore := map[string]any{"vendor": "kensho"}, map[string]any{"vendor": "sitecore"}
		assert.Equal(t, map[string]any{
			"keys":     []string{"prod", "search"},
			"key_info": map[string]any{"prod": ofKensho, "search": ofSitecore},
		}, list("config/"))
		assert.Equal(t, map[string]any{"keys": []string{"prod"}, "key_info": map[string]any{"prod": ofKensho}}, list("config/kensho/"))
		assert.Equal(t, map[string]any{"keys": []string{"search"}, "key_info": map[string]any{"search": ofSitecore}}, list("config/sitecore/"))
	})
}

func TestAWriteChangesOnlyTheGivenFields(t *testing.T) {
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
		assert.Equal(t, http.StatusNotFound, status, "a patch creates nothing")
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

func TestACredentialIsStoredUnverifiedOnRequest(t *testing.T) {
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
		assert.Equal(t, 3, e.Exchanges(), "verify=false applies to one write")
	})
}

func TestARejectedWriteKeepsTheStoredCredential(t *testing.T) {
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

func TestWritingAnAccessTokenAgainDoesNotExtendItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 20, 0)
		e.Write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		engine.Until(1, 20, 0)
		for _, fields := range []map[string]any{{"access_token": "pasted-access-token"}, {"refresh_token": ""}} {
			_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", fields)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "expired at 2000-01-01T00:59:58Z")
		}
	})
}

func TestRequestTimeoutBoundsAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		started := time.Now()
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "request_timeout": 3})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, 3*time.Second, time.Since(started))
	})
}

func TestAVerificationCompletesAfterItsClientDisconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true, Latency: 4 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := e.Backend.HandleRequest(ctx, &logical.Request{
			Operation: logical.CreateOperation, Path: "config/kensho/prod", Storage: e.Storage, Data: map[string]any{"refresh_token": engine.RefreshToken},
		})
		require.NoError(t, err)
		engine.Until(1, 0, 5)
		e.Creds("prod") // with the rotated refresh token
	})
}

func TestAStorageFailureIsA500AndLosesNothing(t *testing.T) {
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

func TestDeletingACredentialKeepsTheOthers(t *testing.T) {
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
		assert.Equal(t, []string{"config/kensho/other", "state/other/own"}, slices.Sorted(maps.Keys(e.Dump())))
		e.Restart()
		assert.Equal(t, token, e.Creds("other").Data["access_token"])
	})
}

func TestANameBelongsToOneVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		token := e.Creds("prod").Data["access_token"]

		_, status, message := e.Request(logical.UpdateOperation, "config/sitecore/prod", map[string]any{"api_key": engine.APIKey})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "is taken by config/kensho/prod")
		_, status, _ = e.Request(logical.DeleteOperation, "config/sitecore/prod", nil)
		assert.Equal(t, 200, status, "deleting a missing credential succeeds")

		e.Restart()
		assert.Equal(t, token, e.Creds("prod").Data["access_token"])
	})
}

// A write that storage refuses leaves nothing in memory (guarantee 15).
func TestGuarantee15RefusedWritesLeaveNoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		storage := e.BreakStorage()
		before := tokenbroker.NamesInMemory(e.Backend)
		write := func(name string) {
			_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/"+name, map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
			require.Equal(t, http.StatusInternalServerError, status)
		}
		storage.Refuse.Store(true)
		for i := range 100 {
			write(fmt.Sprintf("x%d", i))
		}
		assert.Equal(t, before+100, tokenbroker.NamesInMemory(e.Backend), "storage may have accepted the writes")
		e.Pass(time.Minute)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend), "the background task finds that they are missing")
		write("x")
		e.Request(logical.UpdateOperation, "refresh/x", nil)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend), "a request finds that they are missing")
		storage.Refuse.Store(false)
		e.Write("config/kensho/x", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Creds("x")
	})
}

// Writes at a vendor that the writer controls must not fill the memory of the server.
func TestRefreshTokensKeptForRepeatedWritesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
		attempt := func(i int) string {
			_, status, message := e.Request(logical.UpdateOperation, fmt.Sprintf("config/kensho/n%d", i), map[string]any{"refresh_token": engine.RefreshToken, "request_timeout": 5 + i%2})
			require.Equal(t, http.StatusBadGateway, status, message)
			calls := e.Sim.Calls()
			return calls[len(calls)-1].URL
		}
		before := tokenbroker.NamesInMemory(e.Backend)
		for i := range 110 {
			attempt(i)
			time.Sleep(time.Second)
		}
		assert.Equal(t, before+100, tokenbroker.NamesInMemory(e.Backend))
		assert.NotContains(t, attempt(9), "the-next-one", "the oldest are dropped first")
		assert.Contains(t, attempt(109), "the-next-one")
		assert.Contains(t, attempt(50), "the-next-one", "the previous one is still stored")

		e.Pass(58 * time.Minute)
		assert.Contains(t, attempt(109), "the-next-one")
		e.Pass(time.Hour)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend), "they are dropped without another write")
	})
}
