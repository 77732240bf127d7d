//go:build e2e

package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/openid"
)

const tokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

func TestACallersTokenIsExchangedAtARealOpenIDProvider(t *testing.T) {
	t.Parallel()
	m := enable(t, "swaps")
	c := newConsenting(t, m, m.server.Address, time.Hour)
	fields := map[string]any{
		"issuer": c.provider.Issuer, "client_id": "saas", "client_secret": "saas-client-secret-0123", "grant_type": "token_exchange",
		"scope": "openid,email", "auth_style": "client_secret_basic",
	}
	m.write("config/oauth2/swap", fields)
	m.write("roles/people", map[string]any{"config": "swap", "scope": "openid,email", "bound_issuer": c.provider.Issuer, "bound_audiences": "saas"})
	people := map[string]openid.Tokens{}
	for _, email := range []string{alice, bob} {
		tokens, err := c.provider.LogIn(t.Context(), email)
		require.NoError(t, err)
		people[email] = tokens
		m.outside.add(tokens.Access, tokens.ID)
	}
	exchange := func(name string, data map[string]any) (*api.Secret, error) {
		return m.root.Logical().WriteWithContext(t.Context(), m.path+"/exchange/"+name, data)
	}
	for email, tokens := range people {
		for range 3 {
			secret, err := exchange("swap", map[string]any{"subject_token": tokens.Access, "audience": openid.Target})
			require.NoError(t, err)
			owner, err := c.provider.Email(t.Context(), secret.Data["access_token"].(string))
			require.NoError(t, err)
			assert.Equal(t, email, owner)
			assert.Equal(t, "urn:ietf:params:oauth:token-type:access_token", secret.Data["issued_token_type"])
			assert.False(t, secret.Renewable)
			assert.NotEmpty(t, secret.LeaseID)
		}
	}
	assert.Equal(t, 2, c.provider.Exchanges(tokenExchange), "one for each person")

	secret, err := exchange("people", map[string]any{"subject_token": people[alice].ID, "subject_token_type": "id_token"})
	require.NoError(t, err, "an ID token that the provider's published keys verify")
	token := secret.Data["access_token"].(string)
	owner, err := c.provider.Email(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, alice, owner)
	require.NoError(t, m.root.Sys().RevokeWithContext(t.Context(), secret.LeaseID))
	assert.Eventually(t, func() bool {
		_, err := c.provider.Email(t.Context(), token)
		return err != nil
	}, patience, 50*time.Millisecond, "the end of the lease revokes the token")

	before := c.provider.Exchanges(tokenExchange)
	for _, refused := range []struct {
		name   string
		data   map[string]any
		status int
		text   string
	}{
		{"people", map[string]any{"subject_token": people[bob].ID + "x", "subject_token_type": "id_token"}, http.StatusForbidden, "the subject token is not signed with a key of the role's bound_issuer"},
		{"people", map[string]any{"subject_token": people[bob].Access}, http.StatusForbidden, "the subject token is not a JWT"},
		{"swap", map[string]any{"subject_token": "opaque-token-of-nobody-0123456789"}, http.StatusBadRequest, "the vendor refused the exchange of the caller's token"},
		{"swap", map[string]any{"subject_token": people[bob].Access, "audience": "other"}, http.StatusBadRequest, "the vendor refused the exchange of the caller's token"},
	} {
		_, err := exchange(refused.name, refused.data)
		var failure *api.ResponseError
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, refused.status, failure.StatusCode)
		require.Len(t, failure.Errors, 1)
		assert.Contains(t, failure.Errors[0], refused.text)
	}
	assert.Equal(t, before+2, c.provider.Exchanges(tokenExchange), "the role's bounds are checked before anything is sent")
	require.NoError(t, m.root.Sys().RevokePrefixWithContext(t.Context(), m.path+"/exchange"), "while the provider is up")
}
