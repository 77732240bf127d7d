package guarantees_test

import (
	"crypto"
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

const (
	billing = "https://billing.example.com"
	search  = "https://search.example.com"
)

// A narrowing engine has the credential api, whose vendor issues JWTs for audiences and resources.
type narrowing struct {
	*engine.Engine
	client vendorsim.OAuthClient
}

func newNarrowing(t *testing.T) *narrowing {
	t.Helper()
	e := &narrowing{Engine: engine.New(t), client: vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant}, Audiences: []string{billing, search, "https://admin.example.com"}, Resources: []string{"urn:a", "urn:b"},
	}}
	e.Sim.Behave(vendorsim.Conduct{JWT: true})
	e.Sim.AddOAuthClient(e.client)
	e.Write("config/oauth2/api", engine.SecretClient(true))
	return e
}

// audience returns what the token of a read is for.
func (e *narrowing) audience(path string, data map[string]any) []string {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, path, data)
	require.Equal(e.T, http.StatusOK, status, message)
	return e.Sim.About(resp.Data["access_token"].(string)).Audience
}

func (e *narrowing) refusedRead(path string, data map[string]any) string {
	e.T.Helper()
	_, status, message := e.Request(logical.ReadOperation, path, data)
	require.Equal(e.T, http.StatusBadRequest, status, message)
	return message
}

func TestARoleNarrowsByAudienceAndResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("roles/billing", map[string]any{"config": "api", "audience": billing, "scope": "read"})
		e.Write("roles/both", map[string]any{"config": "api", "audience": billing + "," + search, "resource": "urn:a,urn:b"})
		assert.Equal(t, []string{billing}, e.audience("creds/billing", nil))
		assert.Equal(t, []string{billing, search, "urn:a", "urn:b"}, e.audience("creds/both", nil))
		assert.Equal(t, []string{billing}, e.Read("roles/billing").Data["audience"])
		calls := e.Exchanges()
		for range 3 { // guarantee 15: cached apart, also across a restart
			e.Creds("billing")
			e.Creds("both")
			e.Creds("api")
			e.Restart()
		}
		assert.Equal(t, calls, e.Exchanges())
		status := e.Read("status/api").Data["scopes"].(map[string]any)
		assert.Contains(t, status, `read {"audience":["https://billing.example.com"]}`)

		_, code, message := e.Request(logical.PatchOperation, "roles/billing", map[string]any{"audience": nil, "scope": nil})
		require.Equal(t, http.StatusOK, code, message)
		assert.Equal(t, e.Creds("api").Data["access_token"], e.Creds("billing").Data["access_token"])
	})
}

func TestAReaderNarrowsWhatTheRoleHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("roles/both", map[string]any{"config": "api", "audience": billing + "," + search, "scope": "read,write"})
		e.Write("roles/any", map[string]any{"config": "api", "allowed_params": "resource"})
		assert.Equal(t, []string{search}, e.audience("creds/both", map[string]any{"audience": search}))
		assert.Equal(t, []string{search}, e.audience("token/both", map[string]any{"audience": search, "scope": "read"}))
		assert.Equal(t, []string{"urn:b"}, e.audience("creds/any", map[string]any{"resource": "urn:b"}))
		assert.Contains(t, e.RequestedScopes(), "read")

		assert.Equal(t, `audience: the role has no "https://admin.example.com" (it has https://billing.example.com, https://search.example.com)`,
			e.refusedRead("creds/both", map[string]any{"audience": "https://admin.example.com"}))
		assert.Contains(t, e.refusedRead("creds/both", map[string]any{"scope": "admin"}), `scope: the role has no "admin"`)
		assert.Equal(t, "resource: neither the role nor the credential sets it, so a reader may only with a role that has resource in allowed_params",
			e.refusedRead("creds/both", map[string]any{"resource": "urn:a"}))
		assert.Contains(t, e.refusedRead("creds/api", map[string]any{"audience": search}), "allowed_params", "not of a credential either")
		assert.Contains(t, e.refusedRead("creds/both", map[string]any{"client_id": "x"}), `unknown field "client_id"`)
		for _, empty := range []any{"", []string{}, []string{""}} {
			assert.Contains(t, e.refusedRead("creds/both", map[string]any{"audience": empty}), "audience: ", "nothing is not everything")
			assert.Contains(t, e.refusedRead("creds/both", map[string]any{"scope": empty}), "scope: ", "nothing is not everything")
		}
		assert.Contains(t, e.refusedRead("creds/any", map[string]any{"resource": "relative"}), `resource: "relative" is not an absolute URI`)
	})
}

func TestMistakesOfRolesThatNarrowAreExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("config/oauth2/api", map[string]any{"audience": billing + "," + search, "token_params": "tier=gold", "verify": false})
		for _, test := range []struct {
			data map[string]any
			want string
		}{
			{map[string]any{"audience": "https://admin.example.com"}, `audience: the credential has no "https://admin.example.com"`},
			{map[string]any{"token_params": "tier=lead"}, `token_params: the credential has another value of "tier"`},
			{map[string]any{"token_params": "scope=x"}, "token_params: must not contain scope"},
			{map[string]any{"token_url": "https://evil.example.com"}, `unknown field "token_url"`},
			{map[string]any{"allowed_params": "client_id"}, `allowed_params: "client_id" is not a field that narrows the tokens of "api" (allowed: assertion_subject, audience, resource, token_params, scope)`},
			{map[string]any{"assertion_subject": "x"}, "assertion_subject: applies only to grant_type=jwt_bearer"},
			{map[string]any{"audience": " " + billing}, "audience: must not start or end with white space"},
		} {
			test.data["config"] = "api"
			_, status, message := e.Request(logical.UpdateOperation, "roles/new", test.data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, test.want)
		}
		e.Write("config/kensho/plain", map[string]any{"refresh_token": engine.RefreshToken})
		_, status, message := e.Request(logical.UpdateOperation, "roles/new", map[string]any{"config": "plain", "audience": billing})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `unknown field "audience"`)
	})
}

// Guarantee 14 for each narrowing: what was granted is compared with what was asked for.
func TestGuarantee14ATokenForAnotherAudienceIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("roles/search", map[string]any{"config": "api", "audience": search})
		e.client.IgnoreAudience = true
		e.Sim.AddOAuthClient(e.client)
		status, message := e.Refused("creds/search")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor issued a token for https://billing.example.com, which the role did not ask for")
		e.Creds("api")
	})
}

func TestGuarantee14AGitHubTokenHasOnlyWhatTheRoleAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		app := vendorsim.GitHubApp{
			ClientID: "Iv23liabcdefghijklmn", Key: &engine.PrivateKey().PublicKey, InstallationID: "12345678",
			Repositories: []string{"site", "tools", "secret"}, Permissions: map[string]string{"contents": "write", "issues": "write"},
		}
		e.Sim.AddGitHubApp(app)
		e.Write("config/github-app/bot", map[string]any{"client_id": app.ClientID, "private_key": engine.PrivateKeyPEM(), "installation_id": app.InstallationID})
		e.Write("roles/site", map[string]any{"config": "bot", "repositories": "site", "permissions": map[string]any{"contents": "read"}})
		e.Write("roles/some", map[string]any{"config": "bot", "repositories": "site,tools"})
		assert.Equal(t, []string{"site"}, e.Sim.About(e.Creds("site").Data["access_token"].(string)).Repositories)
		resp, status, message := e.Request(logical.ReadOperation, "creds/some", map[string]any{"repositories": "tools"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{"tools"}, e.Sim.About(resp.Data["access_token"].(string)).Repositories)
		assert.Empty(t, resp.Warnings, "GitHub always adds the permission to read metadata")

		app.IgnoreNarrowing = true
		e.Sim.AddGitHubApp(app)
		e.Pass(2 * time.Hour)
		status, message = e.Refused("creds/site")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor granted contents=write, issues=write in permissions as well, which the role does not have")
	})
}

func TestTheNumberOfNarrowerTokensIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("config/oauth2/api", map[string]any{"max_variants": 2})
		e.Write("roles/any", map[string]any{"config": "api", "allowed_params": "audience,resource"})
		e.audience("creds/any", map[string]any{"audience": billing})
		e.audience("creds/any", map[string]any{"audience": search})
		_, status, message := e.Request(logical.ReadOperation, "creds/any", map[string]any{"resource": "urn:a"})
		assert.Equal(t, http.StatusTooManyRequests, status)
		assert.Equal(t, "config/oauth2/api has 2 narrower tokens, its max_variants; wait until some that nobody reads have expired, or raise max_variants", message)
		e.audience("creds/any", map[string]any{"audience": billing})
		e.Creds("any")
		e.Pass(3 * time.Hour) // nobody reads them, so they expire and are pruned
		e.audience("creds/any", map[string]any{"resource": "urn:a"})
	})
}

// A personal engine has the credential service, whose key can act for people, and the role me, by which each
// reader gets its own token.
type personal struct{ *narrowing }

func newPersonal(t *testing.T) *personal {
	t.Helper()
	e := &personal{&narrowing{Engine: engine.New(t)}}
	e.Sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: engine.ClientID, Keys: map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}, Scopes: []string{"read"},
		Grants: []string{vendorsim.JWTBearerGrant}, Subjects: []string{"alice@example.com", "bob@example.com"},
	})
	e.Write("config/oauth2/service", map[string]any{
		"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "grant_type": "jwt_bearer", "scope": "read",
	})
	e.Write("roles/me", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.aliases.accessor.name}}"})
	e.AddReader("1", "alice@example.com")
	e.AddReader("2", "bob@example.com")
	e.AddReader("3", "eve@example.com")
	return e
}

// as reads the token of a path as an entity.
func (e *personal) as(entity, path string) (token string, status int, message string) {
	e.T.Helper()
	resp, status, message := e.RequestWithin(engine.AsReader(e.T.Context(), entity), logical.ReadOperation, path, nil)
	if status == http.StatusOK {
		token = resp.Data["access_token"].(string)
	}
	return token, status, message
}

func (e *personal) mine(entity string) string {
	e.T.Helper()
	token, status, message := e.as(entity, "creds/me")
	require.Equal(e.T, http.StatusOK, status, message)
	return token
}

func TestEachReaderGetsItsOwnToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		alice, bob := e.mine("1"), e.mine("2")
		assert.Equal(t, "alice@example.com", e.Sim.About(alice).Subject)
		assert.Equal(t, "bob@example.com", e.Sim.About(bob).Subject)
		calls := e.Exchanges()
		assert.Equal(t, alice, e.mine("1"))
		e.Restart() // guarantee 10
		assert.Equal(t, alice, e.mine("1"))
		assert.Equal(t, bob, e.mine("2"))
		assert.Equal(t, calls, e.Exchanges())

		status := e.Read("status/service").Data
		assert.Equal(t, 2, status["variants"])
		assert.NotContains(t, status, "scopes", "no names")
		for _, line := range e.Lines() {
			for _, value := range line {
				assert.NotContains(t, fmt.Sprint(value), "alice@example.com")
			}
		}
	})
}

func TestAReaderWithoutAnIdentityIsForbidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		for entity, want := range map[string]string{"": "this token of Vault has no entity", "9": "its entity does not exist any more"} {
			_, status, message := e.as(entity, "creds/me")
			assert.Equal(t, http.StatusForbidden, status)
			assert.Contains(t, message, want)
		}
		e.Entities["4"] = &logical.Entity{ID: "4", Name: "no alias"}
		_, status, message := e.as("4", "token/me")
		assert.Equal(t, http.StatusForbidden, status)
		assert.Contains(t, message, "the reader has nothing for assertion_subject")
		e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})

		// Guarantee 15: a person that the vendor does not know harms no other.
		_, status, message = e.as("3", "creds/me")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor rejected the token for this reader")
		e.mine("1")
		assert.Equal(t, "ok", e.Read("status/service").Data["state"])
		for _, event := range e.Events() {
			assert.NotEqual(t, "tokenbroker/credential-rejected", event.Kind)
		}
	})
}

// A vendor rejects a subject as it rejects a key.
func TestGuarantee15AFieldThatTheVendorRejectsHarmsNoOtherRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("roles/eve", map[string]any{"config": "service", "assertion_subject": "eve@example.com"})
		e.Write("roles/alice", map[string]any{"config": "service", "assertion_subject": "alice@example.com"})
		calls := e.Exchanges()
		for range 10 { // guarantee 5
			status, message := e.Refused("creds/eve")
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "the vendor rejected a narrower token (by assertion_subject), or the credential:")
		}
		assert.Equal(t, calls+1, e.Exchanges())
		assert.Equal(t, "alice@example.com", e.Sim.About(e.Creds("alice").Data["access_token"].(string)).Subject)
		e.mine("1")
		e.Creds("service")

		e.Sim.AddOAuthClient(vendorsim.OAuthClient{ID: engine.ClientID, Grants: []string{vendorsim.JWTBearerGrant}}) // without the key
		e.Pass(time.Hour)
		status, message := e.Refused("creds/service")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor rejected the credential:")
	})
}

func TestGuarantee8AChangeCountsForTheTokensOfAllReaders(t *testing.T) {
	for name, change := range map[string]func(e *personal){
		"a write":   func(e *personal) { e.Write("config/oauth2/service", map[string]any{"max_ttl": "30m"}) },
		"a refresh": func(e *personal) { e.Write("refresh/service", nil) },
		"a drop":    func(e *personal) { e.Write("refresh/service", map[string]any{"drop": true}) },
		"another URL": func(e *personal) {
			e.Write("config/oauth2/service", map[string]any{"scope": "read", "private_key": engine.PrivateKeyPEM(), "token_params": ""})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newPersonal(t)
				alice := e.mine("1")
				change(e)
				assert.NotEqual(t, alice, e.mine("1"))
			})
		})
	}
}

func TestTheTokensOfReadersArePrunedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("config/oauth2/service", map[string]any{"max_variants": 1})
		alice := e.mine("1")
		_, status, message := e.as("2", "creds/me")
		assert.Equal(t, http.StatusTooManyRequests, status)
		assert.Contains(t, message, "max_variants")
		for range 4 { // it is read, so it is renewed in time
			e.Pass(50 * time.Minute)
			next := e.mine("1")
			assert.NotEqual(t, alice, next)
			alice = next
		}
		e.Pass(4 * time.Hour)
		e.mine("2")
		for _, path := range []string{"roles/me", "config/oauth2/service"} {
			_, status, message = e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		engine.AssertStorageEmpty(t, e.Engine)
	})
}

func TestATemplateNeedsACredentialThatProvesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		_, status, message := e.Request(logical.UpdateOperation, "roles/me", map[string]any{"config": "alice", "audience": "{{identity.entity.name}}"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "audience: a template by identity needs a credential that proves itself for each token")
		p := newPersonal(t)
		_, status, message = p.Request(logical.UpdateOperation, "roles/bad", map[string]any{"config": "service", "assertion_subject": "{{identity.nobody}}"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "assertion_subject: is not a template as Vault's policies have them")
	})
}
