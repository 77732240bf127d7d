package guarantees_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
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

// Guarantee 14: a role without a scope has that of the credential, and no more.
func TestGuarantee14AReaderGetsNoScopeThatTheCredentialLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.client.Scopes = append(e.client.Scopes, "admin")
		e.Sim.AddOAuthClient(e.client)
		e.Write("roles/any", map[string]any{"config": "api", "allowed_params": "scope"})
		assert.Contains(t, e.refusedRead("creds/any", map[string]any{"scope": "admin"}), `scope: the credential has no "admin"`)
		assert.Contains(t, e.refusedRead("creds/api", map[string]any{"scope": "read,admin"}), `scope: the credential has no "admin"`)
		e.audience("creds/any", map[string]any{"scope": "read"})
		assert.Contains(t, e.RequestedScopes(), "read")
	})
}

// An empty value of an identity is not the value of nobody.
func TestAReaderWithAnEmptyValueIsForbidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("roles/mail", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.metadata.mail}}"})
		e.Entities["1"].Metadata = map[string]string{"mail": " "}
		_, status, message := e.as("1", "creds/mail")
		assert.Equal(t, http.StatusForbidden, status)
		assert.Equal(t, "the role's tokens depend on the reader's identity, and the reader has nothing for assertion_subject: is empty", message)
	})
}

// Guarantee 13: those who write roles do not decide where the credential's secrets are sent.
func TestGuarantee13ARoleDoesNotChangeADestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("vendors/regional", map[string]any{"definition": `{
			"title": "regional", "docs": ["https://regional.example/docs"],
			"fields": {"client_id": {"required": true}, "client_secret": {"required": true}, "host": {"description": "the host", "pattern": "[a-z.]+", "default": "auth.example.com", "narrows": true}},
			"token_url": "https://{host}/oauth2/token", "auth": "client_secret_basic",
			"grants": [{"grant_type": "client_credentials", "needs": ["client_id", "client_secret"], "request": {"form": {"grant_type": "client_credentials"}}}]
		}`})
		e.Sim.AddOAuthClient(vendorsim.OAuthClient{ID: engine.ClientID, Secret: engine.ClientSecret, AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant}})
		e.Write("config/regional/api", map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret})
		for _, data := range []map[string]any{{"host": "evil.example.com"}, {"allowed_params": "host"}, {"host": "{{identity.entity.name}}"}} {
			data["config"] = "api"
			_, status, message := e.Request(logical.UpdateOperation, "roles/evil", data)
			if data["host"] == "evil.example.com" {
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, "host: would send the credential's secrets to a new destination")
				continue
			}
			require.Equal(t, http.StatusOK, status, message)
			e.AddReader("evil.example.com", "evil.example.com")
			e.Entities["evil.example.com"].Name = "evil.example.com"
			read := map[string]any{}
			if data["allowed_params"] != nil {
				read["host"] = "evil.example.com"
			}
			_, status, message = e.RequestWithin(engine.AsReader(t.Context(), "evil.example.com"), logical.ReadOperation, "creds/evil", read)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "would send the credential's secrets to a new destination")
			e.Request(logical.DeleteOperation, "roles/evil", nil)
		}
	})
}

// A role that gets another credential must be one of it.
func TestARoleKeepsNoFieldThatItsCredentialLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("config/kensho/plain", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("roles/billing", map[string]any{"config": "api", "audience": billing})
		_, status, message := e.Request(logical.PatchOperation, "roles/billing", map[string]any{"config": "plain"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the credential has no fields that a role can set")
		e.Write("vendors/other", map[string]any{"definition": `{
			"title": "other", "docs": ["https://other.example/docs"],
			"fields": {"client_id": {"required": true}, "client_secret": {"required": true}, "tier": {"description": "the tier", "narrows": true}},
			"token_url": "` + vendorsim.OAuthTokenURL + `", "auth": "client_secret_basic",
			"grants": [{"grant_type": "client_credentials", "needs": ["client_id", "client_secret"], "request": {"form": {"grant_type": "client_credentials", "tier": "{tier}"}}}]
		}`})
		e.Write("config/other/tiered", map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "verify": false})
		_, status, message = e.Request(logical.PatchOperation, "roles/billing", map[string]any{"config": "tiered"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "audience: a role of other cannot set it (allowed: tier)", message)
	})
}

// answering makes the vendor answer each request with a token that is a JWT for audiences.
func answering(audiences string) vendorsim.Conduct {
	encode := base64.RawURLEncoding.EncodeToString
	return vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
		claims := fmt.Sprintf(`{"aud":%s,"exp":%d}`, audiences, time.Now().Add(time.Hour).Unix())
		_, _ = fmt.Fprintf(w, `{"access_token":"%s.%s.%s","token_type":"Bearer","expires_in":3600}`, encode([]byte(`{"alg":"RS256"}`)), encode([]byte(claims)), encode([]byte("signature")))
	})}
}

func TestGuarantee14ATokenForAFurtherAudienceIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("config/oauth2/api", map[string]any{"audience": billing + "," + search})
		e.Write("roles/search", map[string]any{"config": "api", "audience": search})
		e.Sim.Behave(answering(`["` + billing + `","` + search + `"]`))
		status, message := e.Refused("creds/search")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "issued a token for "+billing+" as well, which the role does not have")

		e.Sim.Behave(answering(`["https://profile.example.com","` + search + `/"]`))
		e.Pass(6 * time.Minute)
		resp, status, message := e.Request(logical.ReadOperation, "creds/search", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{"the vendor granted in audience what it was not asked for: https://profile.example.com"}, resp.Warnings)
	})
}

func TestGuarantee14AHigherPermissionIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		app := vendorsim.GitHubApp{
			ClientID: "Iv23liabcdefghijklmn", Key: &engine.PrivateKey().PublicKey, InstallationID: "12345678",
			Repositories: []string{"site"}, Permissions: map[string]string{"contents": "write"}, IgnoreNarrowing: true,
		}
		e.Sim.AddGitHubApp(app)
		e.Write("config/github-app/bot", map[string]any{
			"client_id": app.ClientID, "private_key": engine.PrivateKeyPEM(), "installation_id": app.InstallationID, "permissions": map[string]any{"contents": "read", "issues": "read"},
		})
		e.Write("roles/reader", map[string]any{"config": "bot", "permissions": map[string]any{"contents": "read"}})
		status, message := e.Refused("creds/reader")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor granted contents=write in permissions as well")
	})
}

func TestGuarantee14TheSameTokenForTwoAudiencesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Sim.Behave(vendorsim.Conduct{Sticky: true}) // a token for each client and scope
		e.Write("roles/billing", map[string]any{"config": "api", "audience": billing})
		e.Write("roles/search", map[string]any{"config": "api", "audience": search})
		status, message := e.Refused("creds/search") // it is that of the credential itself
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "has issued for another audience or other fields as well")
	})
}

// A template is not a value yet: what it yields is checked.
func TestATemplateIsCheckedByWhatItYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Sim.AddOAuthClient(vendorsim.OAuthClient{ID: engine.ClientID, Keys: e.keys(), Scopes: []string{"read"}, Grants: []string{vendorsim.JWTBearerGrant}, Audiences: []string{subjects[0], billing}})
		e.Write("config/oauth2/service", map[string]any{"audience": billing + "," + subjects[0]})
		e.Write("roles/each", map[string]any{"config": "service", "audience": "{{identity.entity.aliases.accessor.name}}"})
		_, status, message := e.as("1", "creds/each")
		assert.Equal(t, http.StatusOK, status, message)
		_, status, message = e.as("2", "creds/each")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `audience: the credential has no "bob@example.com"`)
	})
}

// A patch of a role merges a map, and a write replaces it.
func TestAPatchOfARoleMergesMaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		params := func(op logical.Operation, given map[string]any) any {
			_, status, message := e.Request(op, "roles/tiered", map[string]any{"config": "api", "token_params": given})
			require.Equal(t, http.StatusOK, status, message)
			return e.Read("roles/tiered").Data["token_params"]
		}
		assert.Equal(t, map[string]any{"tier": "gold", "unit": "1"}, params(logical.UpdateOperation, map[string]any{"tier": "gold", "unit": "1"}))
		assert.Equal(t, map[string]any{"tier": "lead", "unit": "1"}, params(logical.PatchOperation, map[string]any{"tier": "lead"}))
		assert.Equal(t, map[string]any{"tier": "lead"}, params(logical.PatchOperation, map[string]any{"unit": nil}))
		assert.Equal(t, map[string]any{"unit": "2"}, params(logical.UpdateOperation, map[string]any{"unit": "2"}))
		assert.Nil(t, params(logical.PatchOperation, nil))
	})
}

// Guarantee 14: a request with fewer parameters is not narrower.
func TestGuarantee14AReaderDropsNoParameterOfTheRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.client.Params = map[string]string{"tenant": "x", "readonly": "true"} // which the vendor requires
		e.Sim.AddOAuthClient(e.client)
		e.Write("roles/x", map[string]any{"config": "api", "token_params": map[string]any{"tenant": "x", "readonly": "true"}})
		_, status, message := e.Request(logical.ReadOperation, "creds/x", map[string]any{"token_params": "tenant=x"})
		require.Equal(t, http.StatusOK, status, message)
		_, _, message = e.Request(logical.ReadOperation, "creds/x", map[string]any{"token_params": "tenant=y"})
		assert.Contains(t, message, "token_params: the role does not have")
	})
}

// Readers of whom nothing is known must not share a token.
func TestEachPartOfATemplateMustYieldSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("roles/mail", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.metadata.user}}@example.com"})
		e.Entities["1"].Metadata = map[string]string{"user": ""}
		_, status, message := e.as("1", "creds/mail")
		assert.Equal(t, http.StatusForbidden, status)
		assert.Contains(t, message, "assertion_subject: is empty")
		e.Entities["1"].Metadata["user"] = "alice"
		_, status, message = e.as("1", "creds/mail")
		assert.Equal(t, http.StatusOK, status, message)
	})
}

// Guarantee 14: a vendor may have one token for each person, whatever scope is requested.
func TestGuarantee14AReaderGetsNoTokenOfAWiderRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("config/oauth2/service", map[string]any{"scope": "read,write", "private_key": engine.PrivateKeyPEM(), "verify": false})
		template := "{{identity.entity.aliases.accessor.name}}"
		e.Write("roles/wide", map[string]any{"config": "service", "assertion_subject": template})
		e.Write("roles/narrow", map[string]any{"config": "service", "assertion_subject": template, "scope": "read"})
		e.Sim.Behave(returning("the-one-token-of-alice", 0))
		_, status, message := e.as("1", "creds/wide")
		require.Equal(t, http.StatusOK, status, message)
		_, status, message = e.as("1", "creds/narrow")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "returned a token that it has issued for another reader as well")
	})
}

func TestOneLimitCountsTheNarrowerTokensOfAllKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("config/oauth2/service", map[string]any{"max_variants": 2, "private_key": engine.PrivateKeyPEM()})
		e.Write("roles/any", map[string]any{"config": "service", "allowed_params": "assertion_subject"})
		chosen := func(person string) int {
			_, status, _ := e.Request(logical.ReadOperation, "creds/any", map[string]any{"assertion_subject": person})
			return status
		}
		e.mine("1")
		assert.Equal(t, http.StatusOK, chosen("bob@example.com"))
		assert.Equal(t, http.StatusTooManyRequests, chosen("alice@example.com"))
		_, status, _ := e.as("2", "creds/me")
		assert.Equal(t, http.StatusTooManyRequests, status)
	})
}

// A role's values have the types of the credential's fields.
func TestARoleSetsFieldsOfEachType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("vendors/typed", map[string]any{"definition": `{
			"title": "typed", "docs": ["https://typed.example/docs"],
			"fields": {
				"client_id": {"required": true}, "client_secret": {"required": true},
				"readonly": {"description": "whether", "type": "bool", "narrows": true}, "lifetime": {"description": "how long", "type": "duration", "narrows": true},
				"level": {"description": "how much", "type": "integer", "narrows": true}, "sites": {"description": "where", "type": "list", "narrows": true}
			},
			"token_url": "` + vendorsim.OAuthTokenURL + `", "auth": "client_secret_basic",
			"grants": [{"grant_type": "client_credentials", "needs": ["client_id", "client_secret"], "request": {"form": {
				"grant_type": "client_credentials", "readonly": "{readonly}", "lifetime": "{lifetime}", "level": "{level}", "sites": "{sites}"
			}}}]
		}`})
		e.Write("config/typed/open", map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "verify": false})
		e.Write("config/typed/set", map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "verify": false, "level": 3, "lifetime": "10m"})
		given := map[string]any{"readonly": "true", "lifetime": "10m", "level": "3", "sites": "a,b"}
		e.client.Params = map[string]string{"readonly": "true", "lifetime": "600", "level": "3", "sites": "a b"} // which the vendor requires
		e.Sim.AddOAuthClient(e.client)
		for _, config := range []string{"open", "set"} {
			e.Write("roles/typed", with(given, map[string]any{"config": config}))
			e.Restart()
			e.Creds("typed")
			stored := e.Read("roles/typed").Data
			assert.Equal(t, true, stored["readonly"])
			assert.Equal(t, json.Number("600"), stored["lifetime"])
			assert.Equal(t, json.Number("3"), stored["level"])
			assert.Equal(t, []string{"a", "b"}, stored["sites"])
		}
		for field, other := range map[string]any{"level": 4, "lifetime": "20m"} {
			_, status, message := e.Request(logical.UpdateOperation, "roles/typed", map[string]any{"config": "set", field: other})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, field+": the credential has another value")
		}
		for _, bad := range []map[string]any{{"readonly": "perhaps"}, {"lifetime": "long"}, {"level": "high"}} {
			_, status, _ := e.Request(logical.UpdateOperation, "roles/typed", with(bad, map[string]any{"config": "open"}))
			assert.Equal(t, http.StatusBadRequest, status)
		}
	})
}

func TestTheLimitOfNarrowerTokensHoldsAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("config/oauth2/service", map[string]any{"max_variants": 2, "private_key": engine.PrivateKeyPEM()})
		e.mine("1")
		e.mine("2")
		e.Restart()
		_, status, _ := e.as("3", "creds/me")
		assert.Equal(t, http.StatusTooManyRequests, status)
		e.mine("1")
	})
}
