package guarantees_test

import (
	"crypto"
	"fmt"
	"net/http"
	"net/url"
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

// subjects are the people of a personal engine.
var subjects = []string{"alice@example.com", "bob@example.com", "eve@example.com"}

// assertUnnamed asserts that no person is named in what left the engine, answers to the person aside.
func (e *personal) assertUnnamed() {
	e.T.Helper()
	for _, line := range e.Lines() {
		for _, name := range subjects {
			assert.NotContains(e.T, fmt.Sprint(line), name, "guarantee 6")
		}
	}
	for _, sent := range e.Events() {
		for _, name := range subjects {
			assert.NotContains(e.T, fmt.Sprint(sent), name, "guarantee 6")
		}
	}
	for _, path := range []string{"status/service", "metrics"} {
		resp, _, message := e.Request(logical.ReadOperation, path, nil)
		text := message
		if resp != nil {
			text = fmt.Sprint(resp.Data)
			if body, isRaw := resp.Data[logical.HTTPRawBody].([]byte); isRaw {
				text = string(body)
			}
		}
		for _, name := range subjects {
			assert.NotContains(e.T, text, name, "guarantee 6")
		}
	}
}

// Guarantee 14: a scope is in the key of a narrowing, before its fields.
func TestGuarantee14AScopeCannotContainOtherFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("config/oauth2/service", map[string]any{"scope": nil})
		e.Write("roles/any", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.aliases.accessor.name}}", "allowed_params": "scope"})
		scope := "read\n" + `{"assertion_subject":"bob@example.com"}`
		for path, op := range map[string]logical.Operation{"creds/any": logical.ReadOperation, "roles/any": logical.UpdateOperation} {
			_, status, message := e.RequestWithin(engine.AsReader(t.Context(), "1"), op, path, map[string]any{"scope": []any{scope}})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "scope: must not contain a line break")
		}
	})
}

// Guarantees 5 and 16: what the vendor rejects for one person is not news of the credential, and is not
// requested again until the person reads again.
func TestGuarantee5ARejectedPersonConcernsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		calls := e.Exchanges()
		_, status, _ := e.as("3", "creds/me")
		assert.Equal(t, http.StatusBadRequest, status)
		e.Pass(time.Hour)
		assert.Equal(t, calls+1, e.Exchanges())
		for _, sent := range e.Events() {
			assert.NotContains(t, []string{"tokenbroker/credential-rejected", "tokenbroker/consent-required"}, sent.Kind)
		}
		assert.Zero(t, e.Read("status/service").Data["variants"], "pruned")
		e.assertUnnamed()
	})
}

// A rejection of the client itself is news, though only people read.
func TestGuarantee5ARejectedClientIsReportedThoughOnlyPeopleRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		for _, entity := range []string{"1", "2"} {
			e.mine(entity)
		}
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
		time.Sleep(2 * time.Hour)
		for _, entity := range []string{"1", "2"} {
			_, status, _ := e.as(entity, "creds/me")
			assert.Equal(t, http.StatusBadRequest, status)
		}
		synctest.Wait()
		rejected := 0
		for _, sent := range e.Events() {
			if sent.Kind == "tokenbroker/credential-rejected" {
				rejected++
			}
		}
		assert.Equal(t, 1, rejected, "once")
	})
}

// Guarantee 3: the people must not share one refresh token.
func TestGuarantee3ACredentialThatBecomesARefreshTokenIsNotSharedByPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		client := vendorsim.OAuthClient{
			ID: "other", Secret: engine.ClientSecret, Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretBasic},
			Grants: []string{vendorsim.RefreshTokenGrant, vendorsim.ClientCredentialsGrant}, Rotate: true, Audiences: subjects,
		}
		e.Sim.AddOAuthClient(client)
		e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read")
		e.Write("config/oauth2/shared", map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": "other", "client_secret": engine.ClientSecret, "auth_style": "client_secret_basic"})
		e.Write("roles/each", map[string]any{"config": "shared", "audience": "{{identity.entity.aliases.accessor.name}}"})
		for _, entity := range []string{"1", "2"} {
			_, status, message := e.as(entity, "creds/each")
			require.Equal(t, http.StatusOK, status, message)
		}
		e.Write("config/oauth2/shared", map[string]any{"grant_type": "refresh_token", "refresh_token": engine.RefreshToken})
		for _, entity := range []string{"1", "2", "3"} {
			_, status, message := e.as(entity, "creds/each")
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "has a refresh token, which is one person's or service's")
		}
		e.Pass(2 * time.Hour)
		e.Creds("shared")
		assert.Zero(t, e.Read("status/shared").Data["variants"])
		for key := range e.Dump() {
			assert.NotContains(t, key, "variant/shared", "pruned")
		}
	})
}

// Guarantee 6 and 15: what no longer narrows the credential is deleted, and not shown in the log.
func TestGuarantee15AVariantThatTheCredentialCannotHaveIsPruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("roles/for", map[string]any{"config": "service", "audience": "{{identity.entity.aliases.accessor.name}}"})
		e.Sim.AddOAuthClient(vendorsim.OAuthClient{
			ID: engine.ClientID, Keys: e.keys(), Scopes: []string{"read"}, Grants: []string{vendorsim.JWTBearerGrant}, Audiences: append(subjects, billing),
		})
		_, status, message := e.as("1", "creds/for")
		require.Equal(t, http.StatusOK, status, message)
		e.Write("config/oauth2/service", map[string]any{"audience": billing, "verify": false})
		_, status, message = e.as("1", "creds/for")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "audience: the credential has no")
		e.Restart()
		e.Pass(5 * time.Minute)
		for key := range e.Dump() {
			assert.NotContains(t, key, "variant/")
			assert.NotContains(t, key, "~")
		}
		e.assertUnnamed()
	})
}

// Guarantee 15: the values that readers choose do not use up what the roles of others have.
func TestGuarantee15ReadersOfOneRoleDoNotUseUpTheTokensOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("config/oauth2/api", map[string]any{"max_variants": 1})
		e.Write("roles/any", map[string]any{"config": "api", "allowed_params": "audience,resource"})
		e.Write("roles/billing", map[string]any{"config": "api", "audience": billing})
		e.audience("creds/any", map[string]any{"resource": "urn:a"})
		assert.Equal(t, []string{billing}, e.audience("creds/billing", map[string]any{"min_ttl": "1m"}))
		_, status, _ := e.Request(logical.ReadOperation, "creds/any", map[string]any{"resource": "urn:b"})
		assert.Equal(t, http.StatusTooManyRequests, status)
	})
}

// Guarantee 11: what was refused is not requested in the background.
func TestGuarantee11ValuesThatReadersMayNotHaveAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("config/oauth2/api", map[string]any{"max_variants": 1})
		e.Write("roles/any", map[string]any{"config": "api", "allowed_params": "audience,resource"})
		_, status, _ := e.Request(logical.ReadOperation, "creds/any", map[string]any{"resource": "relative"})
		assert.Equal(t, http.StatusBadRequest, status)
		e.audience("creds/any", map[string]any{"resource": "urn:a"})
		_, status, _ = e.Request(logical.ReadOperation, "creds/any", map[string]any{"resource": "urn:b"})
		assert.Equal(t, http.StatusTooManyRequests, status)
		e.Write("config/oauth2/api", map[string]any{"max_variants": 5})
		calls := e.Exchanges()
		e.Pass(10 * time.Minute)
		assert.Equal(t, calls, e.Exchanges(), "nobody reads them")
	})
}

// Guarantee 14: the same token is not for two people.
func TestGuarantee14ATokenOfAnotherPersonIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		alice := e.mine("1")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusOK, `{"access_token":"`+alice+`","token_type":"Bearer","expires_in":3600}`))})
		_, status, message := e.as("2", "creds/me")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "returned a token that it has issued for another reader as well")
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(6 * time.Minute)
		e.mine("2")
	})
}

// Guarantee 8: a credential without a token of its own can be refreshed.
func TestGuarantee8ARefreshOfACredentialWithoutATokenOfItsOwn(t *testing.T) {
	for _, drops := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := newPersonal(t)
			e.Write("vendors/people", map[string]any{"definition": `{
				"title": "people", "docs": ["https://people.example/docs"],
				"fields": {"client_id": {"required": true}, "private_key": {"required": true}, "subject": {"description": "the person", "required": true, "narrows": true}},
				"token_url": "` + vendorsim.OAuthTokenURL + `",
				"grants": [{
					"grant_type": "jwt_bearer", "needs": ["client_id", "private_key", "subject"],
					"request": {"form": {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "{assertion}"}},
					"assertion": {"key": "private_key", "algorithms": ["RS256"], "claims": {"iss": "{client_id}", "sub": "{subject}", "aud": "{token_url}"}}
				}]
			}`})
			e.Write("config/people/all", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()})
			e.Write("roles/each", map[string]any{"config": "all", "subject": "{{identity.entity.aliases.accessor.name}}"})
			alice, status, message := e.as("1", "creds/each")
			require.Equal(t, http.StatusOK, status, message)
			e.Write("refresh/all", map[string]any{"drop": drops})
			next, status, message := e.as("1", "creds/each")
			require.Equal(t, http.StatusOK, status, message)
			assert.NotEqual(t, alice, next)
		})
	}
}

// newAudiences mounts an engine whose credential service has a client secret, and whose role each is for an
// audience of each reader.
func newAudiences(t *testing.T, conduct vendorsim.Conduct) *personal {
	t.Helper()
	e := &personal{&narrowing{Engine: engine.New(t), client: vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant}, Audiences: subjects,
	}}}
	e.Sim.AddOAuthClient(e.client)
	e.Sim.Behave(conduct)
	e.Write("clients/app", map[string]any{
		"vendor": "oauth2", "grant_type": "client_credentials", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "auth_style": "client_secret_basic",
	})
	e.Write("config/oauth2/service", map[string]any{"client": "app", "scope": "read", "verify": false})
	e.Write("roles/me", map[string]any{"config": "service", "audience": "{{identity.entity.aliases.accessor.name}}"})
	for i, name := range subjects {
		e.AddReader(fmt.Sprint(i+1), name)
	}
	return e
}

// Guarantee 8: a vendor may return a token again until it expires, also one that was dropped.
func TestGuarantee8ADroppedTokenOfAReaderIsNotServedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sticky := func(w http.ResponseWriter, r *http.Request) { // one token an hour for each audience
			_ = r.ParseForm()
			now := time.Now()
			_, _ = fmt.Fprintf(w, `{"access_token":"%x-%d","token_type":"Bearer","expires_in":%d}`,
				r.Form.Get("audience"), now.Hour(), int(now.Truncate(time.Hour).Add(time.Hour).Sub(now).Seconds()))
		}
		e := newAudiences(t, vendorsim.Conduct{Fault: vendorsim.Always(sticky)})
		alice := e.mine("1")
		e.Request(logical.UpdateOperation, "refresh/service", engine.Drop)
		for range 3 {
			token, status, message := e.as("1", "creds/me")
			assert.NotEqual(t, alice, token)
			assert.Equal(t, http.StatusServiceUnavailable, status, message)
			e.Restart()
			e.Pass(7 * time.Minute)
		}
		e.Pass(time.Hour)
		assert.NotEqual(t, alice, e.mine("1"))
		calls := e.Exchanges()
		e.Request(logical.UpdateOperation, "refresh/service", engine.Drop)
		e.Pass(5 * time.Minute)
		assert.Equal(t, calls+1, e.Exchanges(), "people get new tokens when they read")
		e.Pass(5 * time.Hour)
		for key := range e.Dump() {
			assert.NotContains(t, key, "~", "pruned")
		}
	})
}

// The former secret of a client works for its readers until the vendor knows the new one.
func TestReadersGetTokensByTheFormerSecretOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAudiences(t, vendorsim.Conduct{})
		e.mine("1")
		e.Write("clients/app", map[string]any{"client_secret": "the-next-client-secret"})
		e.mine("1")
		e.mine("2")
		e.Pass(10 * time.Minute)
		assert.Contains(t, e.Read("clients/app").Data, "former_secrets_set")
		e.client.Secret = "the-next-client-secret"
		e.Sim.AddOAuthClient(e.client)
		e.mine("3")
		e.Pass(10 * time.Minute)
		assert.NotContains(t, e.Read("clients/app").Data, "former_secrets_set", "the new secret has worked for a reader")
		e.assertUnnamed()
	})
}

// Guarantee 16: a refresh that was refused drops no tokens.
func TestGuarantee16RefreshesOfPeoplesTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		for range 10 {
			e.Write("refresh/service", engine.Drop)
		}
		alice := e.mine("1")
		_, status, _ := e.Request(logical.UpdateOperation, "refresh/service", engine.Drop)
		assert.Equal(t, http.StatusTooManyRequests, status)
		assert.Equal(t, alice, e.mine("1"))
	})
}

// Guarantee 11: an endpoint that hangs does not hold up a deletion for each token.
func TestGuarantee11ADeletionRevokesThePeoplesTokensWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("config/oauth2/service", map[string]any{"revocation_url": vendorsim.OAuthRevocationURL, "private_key": engine.PrivateKeyPEM()})
		alice, bob := e.mine("1"), e.mine("2")
		e.Write("refresh/service", engine.Drop)
		assert.Contains(t, e.Sim.Revoked(), alice)
		assert.Contains(t, e.Sim.Revoked(), bob)

		people := make([]string, 30)
		for i := range people {
			people[i] = fmt.Sprintf("person%d@example.com", i)
			e.AddReader(people[i], people[i])
		}
		client := vendorsim.OAuthClient{ID: engine.ClientID, Scopes: []string{"read"}, Grants: []string{vendorsim.JWTBearerGrant}, Subjects: people}
		client.Keys = e.keys()
		e.Sim.AddOAuthClient(client)
		for _, person := range people {
			e.mine(person)
		}
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if u, _ := url.Parse(vendorsim.OAuthRevocationURL); r.URL.Path != u.Path {
				return nil
			}
			return func(http.ResponseWriter, *http.Request) { time.Sleep(time.Minute); vendorsim.Reset(nil, nil) }
		}})
		e.Request(logical.DeleteOperation, "roles/me", nil)
		began := time.Now()
		_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/service", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Less(t, time.Since(began), time.Minute)
		for key := range e.Dump() {
			assert.False(t, strings.HasPrefix(key, "variant/") || strings.HasPrefix(key, "state/"), key)
		}
	})
}

func TestTheTokensOfReadersHaveTheWarningsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Write("roles/short", map[string]any{"config": "service", "assertion_subject": "{{identity.entity.aliases.accessor.name}}", "ttl": "5m"})
		resp, status, message := e.RequestWithin(engine.AsReader(t.Context(), "1"), logical.ReadOperation, "creds/short", map[string]any{"min_ttl": "10m"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{"min_ttl is 10m0s, but the role's ttl is 5m0s"}, resp.Warnings)
	})
}

func (e *personal) keys() map[string]crypto.PublicKey {
	return map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}
}
