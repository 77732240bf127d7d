package guarantees_test

import (
	"crypto"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newLacking returns an engine whose credential service leaves the subject, which each exchange needs, to its
// roles.
func newLacking(t *testing.T) *personal {
	t.Helper()
	e := &personal{&narrowing{Engine: engine.New(t)}}
	server := vendorsim.OAuthServer{Issuer: "https://account.docusign.com", TokenURL: "https://account.docusign.com/oauth/token"}
	e.Sim.AddOAuthServer(server)
	e.Sim.AddOAuthClient(vendorsim.OAuthClient{
		Issuer: server.Issuer, ID: engine.ClientID, Keys: map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey},
		ScopeInAssertion: true, Scopes: []string{"signature", "impersonation"}, Grants: []string{vendorsim.JWTBearerGrant},
		Audience: "account.docusign.com", Subjects: []string{"alice@example.com", "bob@example.com"},
	})
	resp, status, message := e.Request(logical.CreateOperation, "config/docusign/service", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()})
	require.Equal(t, http.StatusOK, status, message)
	assert.Equal(t, []string{"the credential is not verified, as it leaves subject to roles: read the token of a role that sets it"}, resp.Warnings)
	e.Write("roles/me", map[string]any{"config": "service", "subject": "{{identity.entity.aliases.accessor.name}}"})
	e.Write("roles/bob", map[string]any{"config": "service", "subject": "bob@example.com"})
	e.AddReader("1", "alice@example.com")
	return e
}

func TestACredentialThatLeavesAFieldToRolesIsRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLacking(t)
		status, message := e.Refused("creds/service")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "subject: must be set, and the credential leaves it to roles; read the token of a role that sets it", message)
		tokens := func() []any { return []any{e.mine("1"), e.Creds("bob").Data["access_token"]} }
		last := tokens()
		for _, drop := range []bool{false, true} {
			resp, status, message := e.Request(logical.UpdateOperation, "refresh/service", map[string]any{"drop": drop})
			assert.Equal(t, http.StatusOK, status, message)
			assert.Equal(t, map[string]any{"vendor": "docusign"}, resp.Data)
			next := tokens()
			assert.NotEqual(t, last[0], next[0])
			assert.NotEqual(t, last[1], next[1])
			last = next
		}
	})
}

// Guarantee 4 for a credential without a token of its own, whose exchange would show that the vendor is down.
func TestGuarantee4ARefreshDuringAnOutageKeepsTheTokensOfReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLacking(t)
		alice := e.mine("1")
		e.Sim.Behave(engine.Down())
		_, status, message := e.Request(logical.UpdateOperation, "refresh/service", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status, message)
		assert.Equal(t, alice, e.mine("1"))
	})
}
