package guarantees_test

import (
	"crypto"
	"fmt"
	"maps"
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

const (
	newSecret  = "the-next-client-secret-of-crm"
	otherToken = "rt-of-bob-0123456789"
)

// A sharing engine has the client crm, which the credentials alice and bob share.
type sharing struct {
	*engine.Engine
	client vendorsim.OAuthClient
}

func newSharing(t *testing.T) *sharing {
	t.Helper()
	e := &sharing{Engine: engine.New(t), client: vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"openid", "read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant, vendorsim.DeviceCodeGrant, vendorsim.ClientCredentialsGrant}, RedirectURI: redirectURI,
	}}
	e.register(e.client.Secret)
	e.Sim.AddOAuthRefreshToken(e.client, engine.RefreshToken, "read", "write")
	e.Sim.AddOAuthRefreshToken(e.client, otherToken, "read", "write")
	e.Write("clients/crm", map[string]any{
		"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "authorization_url": "https://id.example.com/oauth2/authorize", "client_id": engine.ClientID,
		"client_secret": engine.ClientSecret, "auth_style": "client_secret_basic", "redirect_uri": redirectURI, "scope": "read",
	})
	e.Write("config/oauth2/alice", map[string]any{"client": "crm", "refresh_token": engine.RefreshToken})
	e.Write("config/oauth2/bob", map[string]any{"client": "crm", "refresh_token": otherToken, "scope": "read,write"})
	return e
}

// register changes the client's secret at the vendor.
func (e *sharing) register(secret string) {
	e.client.Secret = secret
	e.Sim.AddOAuthClient(e.client)
}

// refused writes to a path, and returns the error.
func (e *sharing) refused(path string, data map[string]any) string {
	e.T.Helper()
	_, status, message := e.Request(logical.UpdateOperation, path, data)
	require.Equal(e.T, http.StatusBadRequest, status, message)
	return message
}

func (e *sharing) crm() map[string]any {
	e.T.Helper()
	return e.Read("clients/crm").Data
}

func TestCredentialsShareAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Creds("alice")
		e.Creds("bob")
		assert.Equal(t, []string{"read", "read write"}, e.RequestedScopes()[:2], "the scope of the client is the default")
		crm := e.crm()
		assert.Equal(t, []string{"client_secret"}, crm["secrets_set"])
		assert.Equal(t, []string{"alice", "bob"}, crm["credentials"])
		assert.NotContains(t, crm, "client_secret", "guarantee 6")
		assert.Equal(t, "crm", e.Read("config/oauth2/alice").Data["client"])
		assert.Equal(t, "crm", e.Read("status/alice").Data["client"])

		resp, status, message := e.Request(logical.ListOperation, "clients/", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, map[string]any{"crm": map[string]any{"vendor": "oauth2"}}, resp.Data["key_info"])

		_, status, message = e.Request(logical.DeleteOperation, "clients/crm", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "clients/crm is used by config/oauth2/alice, config/oauth2/bob; delete these credentials first, or give them another client", message)
		for _, path := range []string{"config/oauth2/alice", "config/oauth2/bob", "clients/crm"} {
			_, status, message = e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		engine.AssertStorageEmpty(t, e.Engine)
	})
}

func TestAPersonConsentsWithASharedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/people", map[string]any{
			"vendor": "oauth2", "issuer": vendorsim.OAuthIssuer, "client_id": engine.ClientID, "client_secret": engine.ClientSecret,
			"auth_style": "client_secret_basic", "grant_type": "refresh_token", "redirect_uri": redirectURI, "scope": "openid,read",
		})
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/"+person, map[string]any{"client": "people"})
		require.Equal(t, http.StatusOK, status, message)
		c := &consenting{Engine: e.Engine}
		status, page := c.open(e.Sim.Consent(c.begin(), person))
		require.Equal(t, http.StatusOK, status, page)
		e.Creds(person)
		assert.Equal(t, []string{"refresh_token"}, e.Read("config/oauth2/" + person).Data["secrets_set"])

		// In the midst of a rotation, the vendor may know either secret.
		e.Write("clients/people", map[string]any{"client_secret": newSecret})
		status, page = c.open(e.Sim.Consent(c.begin(), person))
		require.Equal(t, http.StatusOK, status, page)
		e.register(newSecret)
		status, page = c.open(e.Sim.Consent(c.begin(), person))
		require.Equal(t, http.StatusOK, status, page)
	})
}

// The new secret is tried first; the former one serves until the new one has worked everywhere.
func TestASecretOfAClientIsRotatedWithOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		before := e.Creds("alice").Data["access_token"]
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		crm := e.crm()
		assert.Equal(t, []string{"client_secret"}, crm["secrets_set"])
		assert.Equal(t, []string{"client_secret"}, crm["former_secrets_set"])
		assert.Equal(t, 2, crm["waiting_count"])
		assert.Equal(t, before, e.Creds("alice").Data["access_token"], "guarantee 4: a rotation costs no valid token")

		e.Pass(50 * time.Minute)
		assert.NotEqual(t, before, e.Creds("alice").Data["access_token"], "the vendor does not know the new secret yet")
		assert.Equal(t, "ok", e.Read("status/alice").Data["state"])
		assert.Equal(t, 2, e.crm()["waiting_count"])

		e.Restart() // guarantee 10
		e.register(newSecret)
		e.Write("refresh/alice", nil)
		assert.Equal(t, []string{"bob"}, e.crm()["waiting"])
		e.Pass(time.Minute)
		assert.Contains(t, e.crm(), "former_secrets_set", "not while bob has not used the new one")
		e.Write("refresh/bob", nil)
		assert.Empty(t, e.crm()["waiting"])
		e.Pass(time.Minute)
		assert.NotContains(t, e.crm(), "former_secrets_set")
		for key, text := range e.Dump() {
			assert.NotContains(t, text, engine.ClientSecret, "the former secret is gone from %s", key)
		}
		e.Pass(2 * time.Hour)
		e.Creds("alice")
		e.Creds("bob")
	})
}

func TestASecretThatNeverWorkedIsNotTheFormerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"client_secret": "mistyped"})
		e.Write("refresh/alice", nil)
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Write("refresh/alice", nil) // with the first secret
		assert.Equal(t, 2, e.crm()["waiting_count"])

		e.Write("clients/crm", map[string]any{"drop_former": true})
		assert.NotContains(t, e.crm(), "former_secrets_set")
		_, status, message := e.Request(logical.UpdateOperation, "refresh/alice", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.NotContains(t, message, newSecret, "guarantee 6")
	})
}

// Guarantee 5: a write clears the back-off, here of all credentials of the client.
func TestANewSecretOfAClientIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.register(newSecret)
		e.Pass(2 * time.Hour)
		for _, name := range []string{"alice", "bob"} {
			status, _ := e.Refused("creds/" + name)
			require.Equal(t, http.StatusBadRequest, status)
		}
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Creds("alice")
		e.Creds("bob")
		e.Pass(time.Minute)
		assert.NotContains(t, e.crm(), "former_secrets_set")
	})
}

// Guarantee 8: a change of the client counts at once for all of its credentials.
func TestGuarantee8AChangeOfAClientDropsItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		tokens := map[string]any{"alice": e.Creds("alice").Data["access_token"], "bob": e.Creds("bob").Data["access_token"]}
		e.Write("clients/crm", map[string]any{"scope": "write"})
		for name, token := range tokens {
			assert.NotEqual(t, token, e.Creds(name).Data["access_token"], name)
		}
		assert.Contains(t, e.RequestedScopes(), "write")
		e.Restart()
		for name, token := range tokens {
			assert.NotEqual(t, token, e.Creds(name).Data["access_token"], name)
		}

		// A description is nothing that a token depends on.
		token := e.Creds("alice").Data["access_token"]
		e.Write("clients/crm", map[string]any{"description": "of sales"})
		assert.Equal(t, token, e.Creds("alice").Data["access_token"])
	})
}

// Guarantee 13: the secret of a client goes only where its writer sent it, and so do those of its users.
func TestGuarantee13AClientsSecretGoesNowhereElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const elsewhere = "https://evil.example.com/token"
		e := newSharing(t)
		calls := e.Exchanges()
		assert.Contains(t, e.refused("config/oauth2/eve", map[string]any{"client": "crm", "refresh_token": "x", "token_url": elsewhere}), "token_url: is set by clients/crm")
		assert.Contains(t, e.refused("config/oauth2/eve", map[string]any{"client": "crm", "refresh_token": "x", "revocation_url": elsewhere}),
			"client: with these fields, the secrets of clients/crm would be sent to a new destination: "+elsewhere)
		assert.Contains(t, e.refused("config/oauth2/eve", map[string]any{"client": "crm", "refresh_token": "x", "ca_cert": engine.ACertificate}),
			"the secrets of clients/crm would be sent to a new destination: a host trusted by another ca_cert")
		assert.Contains(t, e.refused("clients/crm", map[string]any{"token_url": elsewhere}), "client_secret: must be given again")
		assert.Contains(t, e.refused("clients/crm", map[string]any{"token_url": elsewhere, "client_secret": "x"}),
			"with it, the stored secrets of config/oauth2/alice would be sent to a new destination: "+elsewhere)
		assert.Equal(t, calls, e.Exchanges(), "nothing was sent")
		e.Creds("alice")
	})
}

// A writer of config/ gets no tokens of the application itself from a client that is for people.
func TestAClientForPeopleYieldsNoTokenOfTheApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		people := func(more map[string]any) map[string]any {
			fields := map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret}
			maps.Copy(fields, more)
			return fields
		}
		application := map[string]any{"client": "people", "grant_type": "client_credentials"}
		calls := e.Exchanges()
		e.Write("clients/people", people(map[string]any{"grant_type": "refresh_token"}))
		assert.Contains(t, e.refused("config/oauth2/eve", application), "grant_type: is set by clients/people")
		assert.Contains(t, e.refused("config/oauth2/eve", map[string]any{"client": "people"}), "refresh_token: must be set with grant_type=refresh_token")
		e.Write("clients/people", map[string]any{"grant_type": "", "authorization_url": "https://id.example.com/oauth2/authorize", "redirect_uri": redirectURI})
		assert.Contains(t, e.refused("config/oauth2/eve", application), "apply only to grant_type=refresh_token")
		assert.Equal(t, calls, e.Exchanges(), "nothing was sent")

		e.Write("clients/application", people(nil))
		e.Write("config/oauth2/batch", map[string]any{"client": "application", "scope": "read"})
		e.Creds("batch")
	})
}

func TestMistakesWithClientsAreExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		for _, test := range []struct {
			path string
			data map[string]any
			want string
		}{
			{"clients/new", map[string]any{"client_id": "x"}, "vendor: must be set"},
			{"clients/new", map[string]any{"vendor": "sitecore", "client_id": "x"}, "vendor: a credential of sitecore has no OAuth client to share"},
			{"clients/new", map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": "x", "refresh_token": "y"}, "refresh_token"},
			{"clients/new", map[string]any{"vendor": "oauth2", "client_id": "x"}, "with these fields, no credential could use the client: token_url"},
			{"clients/crm", map[string]any{"vendor": "hubspot"}, "vendor: clients/crm is a client of oauth2; create another one"},
			{"clients/crm", map[string]any{"reap_after": "1m"}, "reap_after: must be at least 1h"},
			{"clients/crm", map[string]any{"private_key_source": "generated"}, "keypair: must be set"},
			{"clients/crm", map[string]any{"redirect": "x"}, `unknown field "redirect"`},
			{"config/oauth2/carl", map[string]any{"client": "none", "refresh_token": "x"}, "client: clients/none does not exist; create it first"},
			{"config/oauth2/carl", map[string]any{"client": "crm", "client_id": "x"}, `client_id: is set by clients/crm; omit it, or clear it with client_id=""`},
			{"config/hubspot/carl", map[string]any{"client": "crm", "refresh_token": "x"}, "client: clients/crm is a client of oauth2; store the credential at config/oauth2/carl"},
			{"config/sitecore/carl", map[string]any{"client": "crm"}, `unknown field "client"`},
			{"config/oauth2/carl", map[string]any{"client": "../x"}, "client"},
		} {
			message := e.refused(test.path, test.data)
			assert.Contains(t, message, test.want)
		}
		e.Write("config/oauth2/bob", map[string]any{"revocation_url": "", "single_token": true})
		assert.Contains(t, e.refused("clients/crm", map[string]any{"single_token": true}), "with it, config/oauth2/bob is refused: single_token: is set by clients/crm")
	})
}

func TestACredentialThatIsRejectedForLongIsDeletedIfItsClientSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "24h"})
		e.Write("roles/narrow", map[string]any{"config": "bob", "scope": "read"})
		e.Creds("alice")
		e.Creds("bob")
		rejectBoth := vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_grant"}`)(w, nil)
		})}
		e.Sim.Behave(rejectBoth)
		e.Pass(2 * time.Hour)
		for _, name := range []string{"alice", "bob"} {
			status, _ := e.Refused("creds/" + name)
			require.Equal(t, http.StatusBadRequest, status)
		}
		e.Pass(22 * time.Hour)
		e.Read("config/oauth2/alice")
		e.Restart()
		e.Pass(3 * time.Hour)
		_, status, _ := e.Request(logical.ReadOperation, "config/oauth2/alice", nil)
		assert.Equal(t, http.StatusNotFound, status)
		e.Read("config/oauth2/bob") // a role uses it
		var reaped []engine.SentEvent
		for _, event := range e.Events() {
			if strings.HasSuffix(event.Kind, "credential-reaped") {
				reaped = append(reaped, event)
			}
		}
		require.Len(t, reaped, 1)
		assert.Equal(t, "alice", reaped[0].Metadata["name"])
		assert.Equal(t, "crm", reaped[0].Metadata["client"])
	})
}

// Credentials that roles use stay, are logged once each, and do not keep others from being deleted.
func TestACredentialThatStaysKeepsNoOtherFromBeingDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const staying = 25 // more than one run of the background work tries
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "1h"})
		e.Write("clients/zero", map[string]any{
			"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "reap_after": "1h",
		})
		store := func(name, client string) {
			e.Sim.AddOAuthRefreshToken(e.client, "rt-of-"+name, "read")
			e.Write("config/oauth2/"+name, map[string]any{"client": client, "refresh_token": "rt-of-" + name})
		}
		var names []string
		for i := range staying {
			name := fmt.Sprint("staying", i)
			store(name, "crm")
			e.Write("roles/of-"+name, map[string]any{"config": name})
			names = append(names, name)
		}
		store("leaver", "zero")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_grant"}`)(w, nil)
		})})
		e.Pass(2 * time.Hour)
		for _, name := range append(names, "leaver") {
			status, _ := e.Refused("creds/" + name)
			require.Equal(t, http.StatusBadRequest, status)
		}
		e.Pass(90 * time.Minute)
		_, status, _ := e.Request(logical.ReadOperation, "config/oauth2/leaver", nil)
		assert.Equal(t, http.StatusNotFound, status)
		for _, name := range names {
			e.Read("config/oauth2/" + name)
		}
		assert.Equal(t, staying, strings.Count(e.Outside.Text(), "a rejected credential cannot be deleted"))

		_, status, message := e.Request(logical.DeleteOperation, "roles/of-staying0", nil)
		require.Equal(t, http.StatusOK, status, message)
		e.Pass(5 * time.Minute)
		_, status, _ = e.Request(logical.ReadOperation, "config/oauth2/staying0", nil)
		assert.Equal(t, http.StatusNotFound, status)
	})
}

// A client whose own secret has expired must not cost the credentials of its users.
func TestCredentialsAreNotDeletedForTheFaultOfTheirClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "1h"})
		e.register(newSecret)
		e.Pass(2 * time.Hour)
		status, _ := e.Refused("creds/alice")
		require.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, map[string]any{"required": false}, e.Read("status/alice").Data["consent"], "another consent would not help")
		for _, event := range e.Events() {
			assert.NotContains(t, event.Kind, "consent-required")
		}
		e.Pass(48 * time.Hour)
		e.Read("config/oauth2/alice")
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Creds("alice")
	})
}

// Guarantee 17: a key pair signs for a client only if its own path allows it.
func TestGuarantee17AKeyPairOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &sharing{Engine: engine.New(t)}
		made := e.Keypair("first", map[string]any{"key_type": "ec-p256"}).Data
		keys := map[string]crypto.PublicKey{made["key_id"].(string): engine.PublicKey(t, made["public_key"])}
		e.Sim.AddOAuthClient(engine.SigningClient(keys))
		e.Sim.AddOAuthRefreshToken(engine.SigningClient(keys), engine.RefreshToken, "read")
		fields := map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key_source": "generated", "keypair": "first"}
		assert.Contains(t, e.refused("clients/crm", fields), `keypair/first may not be used by the client "crm"; add it to allowed_clients of keypair/first`)
		e.Keypair("first", map[string]any{"allowed_clients": "crm"})
		e.Write("clients/crm", fields)
		assert.Equal(t, []string{"auth.example.com"}, e.Read("keypair/first").Data["allowed_hosts"])
		e.Write("config/oauth2/alice", map[string]any{"client": "crm", "refresh_token": engine.RefreshToken})
		e.Creds("alice")

		_, status, message := e.Request(logical.DeleteOperation, "keypair/first", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "config/oauth2/alice")

		// The pending pair is activated for the credentials of the client.
		pending := e.Pending("first", map[string]any{"key_type": "ec-p256"}).Data
		keys[pending["key_id"].(string)] = engine.PublicKey(t, pending["public_key"])
		e.Write("keypair/first/activate", nil)
		e.Creds("alice")
		e.Restart()
		e.Write("refresh/alice", nil)

		// Another key pair is a rotation as that of a secret.
		second := e.Keypair("second", map[string]any{"key_type": "ec-p256", "allowed_clients": "crm"}).Data
		e.Write("clients/crm", map[string]any{"keypair": "second"})
		assert.Equal(t, []string{"keypair"}, e.crm()["former_secrets_set"])
		e.Write("refresh/alice", nil) // the vendor does not know it yet
		_, status, message = e.Request(logical.DeleteOperation, "keypair/first", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "is used by")
		keys[second["key_id"].(string)] = engine.PublicKey(t, second["public_key"])
		e.Write("refresh/alice", nil)
		e.Pass(time.Minute)
		assert.NotContains(t, e.crm(), "former_secrets_set")
		_, status, message = e.Request(logical.DeleteOperation, "keypair/first", nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

func TestADamagedClientIsRepairedByAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		fields := e.crm()
		e.Damage("client/crm")
		e.Restart()
		status, message := e.Refused("creds/alice")
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, message, "clients/crm cannot be decoded; write the client again, with all its fields")
		again := map[string]any{"client_secret": engine.ClientSecret}
		for _, field := range []string{"vendor", "token_url", "authorization_url", "client_id", "auth_style", "redirect_uri", "scope"} {
			again[field] = fields[field]
		}
		e.Write("clients/crm", again)
		e.Creds("alice")
	})
}

// A definition stays one with which the secrets of its clients are secret, and go where they went.
func TestADefinitionIsBoundByItsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &sharing{Engine: engine.New(t)}
		define := func(url, secret string) map[string]any {
			return map[string]any{"definition": `{"title": "Acme", "docs": ["https://acme.example.com/docs"],
				"fields": {"client_id": {}, "refresh_token": {}, "pass": {"description": "The client's password.", "secret": ` + secret + `}},
				"grants": [{"grant_type": "refresh_token", "needs": ["client_id", "pass", "refresh_token"],
				"request": {"url": "` + url + `", "form": {"grant_type": "refresh_token", "refresh_token": "{refresh_token}", "client_id": "{client_id}", "client_secret": "{pass}"}}}]}`}
		}
		e.Write("vendors/acme", define("https://id.acme.example.com/token", "true"))
		e.Write("clients/crm", map[string]any{"vendor": "acme", "client_id": engine.ClientID, "pass": engine.ClientSecret})
		assert.NotContains(t, e.crm(), "pass")
		assert.Contains(t, e.refused("vendors/acme", define("https://evil.example.com/token", "true")), "the stored secrets of clients/crm would be sent to a new destination: https://evil.example.com/token")
		assert.Contains(t, e.refused("vendors/acme", define("https://id.acme.example.com/token", "false")), "/fields/pass: must stay a secret, as clients/crm has it as one")
		_, status, message := e.Request(logical.DeleteOperation, "vendors/acme", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "clients/crm uses the definition")
		e.Write("vendors/acme", define("https://id.acme.example.com/token", "true"))
	})
}
