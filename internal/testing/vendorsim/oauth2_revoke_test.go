package vendorsim_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// revoking returns a server with a client and a refresh token, and a function that revokes
// tokens of the client.
func revoking(t *testing.T, conduct vendorsim.OAuthConduct) (*vendorsim.Sim, func(pairs ...string) answered) {
	t.Helper()
	sim := vendorsim.New()
	sim.Behave(vendorsim.Conduct{OAuth: conduct})
	sim.AddOAuthClient(client)
	sim.AddOAuthRefreshToken(client, "r", "read")
	return sim, func(pairs ...string) answered {
		t.Helper()
		return post(t, sim, vendorsim.OAuthRevocationURL, basic(client.ID, client.Secret), form(pairs...))
	}
}

func TestARevokedAccessTokenIsNotAccepted(t *testing.T) {
	sim, revoke := revoking(t, vendorsim.OAuthConduct{})
	first, second := refresh(t, sim, client, "r").token(), refresh(t, sim, client, "r").token()

	a := revoke("token", first, "token_type_hint", "access_token")
	assert.Equal(t, 200, a.status)
	assert.Nil(t, a.body)
	assert.False(t, sim.Accepts(first))
	assert.True(t, sim.Accepts(second), "the others stay")
	assert.Equal(t, 1, sim.ValidTokens())
	assert.Equal(t, 200, refresh(t, sim, client, "r").status, "and so does the refresh token")

	assert.Equal(t, 200, revoke("token", first).status, "a second revocation succeeds")
	assert.Equal(t, 200, revoke("token", "unknown", "token_type_hint", "refresh_token").status)
	assert.Equal(t, []string{first}, sim.Revoked())
	assert.Empty(t, sim.Violations())
}

func TestARevocationOfARefreshTokenRevokesItsAccessTokens(t *testing.T) {
	sim, revoke := revoking(t, vendorsim.OAuthConduct{})
	token := refresh(t, sim, client, "r").token()
	assert.Equal(t, 200, revoke("token", "r", "token_type_hint", "access_token").status, "a hint may be wrong")
	assert.False(t, sim.Accepts(token))
	assert.Zero(t, sim.ValidTokens())
	assert.Equal(t, "invalid_grant", refresh(t, sim, client, "r").error())
	assert.Equal(t, []string{"r"}, sim.Revoked())
}

func TestARevocationOfAnAccessTokenRevokesItsRefreshTokenAtGoogle(t *testing.T) {
	sim, revoke := revoking(t, vendorsim.OAuthConduct{RevokeGrant: true, Gone400: true})
	token := refresh(t, sim, client, "r").token()
	assert.Equal(t, 200, revoke("token", token).status)
	assert.Equal(t, "invalid_grant", refresh(t, sim, client, "r").error())
	a := revoke("token", token)
	assert.Equal(t, 400, a.status)
	assert.Equal(t, "invalid_token", a.error())
	assert.Empty(t, sim.Violations())
}

func TestAClientRevokesOnlyItsOwnTokens(t *testing.T) {
	sim, _ := revoking(t, vendorsim.OAuthConduct{})
	other := client
	other.ID = "other"
	sim.AddOAuthClient(other)
	service := vendorsim.OAuthClient{ID: "service", Grants: []string{vendorsim.RefreshTokenGrant}}
	sim.AddOAuthClient(service)
	sim.AddOAuthRefreshToken(service, "s")
	token := refresh(t, sim, client, "r").token()
	violations := 0
	for _, test := range []struct {
		name, authorization string
		form                url.Values
		status              int
		code                string
		violation           bool
	}{
		{"another client's", basic(other.ID, other.Secret), form("token", token), 400, "unauthorized_client", false},
		{"a wrong secret", basic(client.ID, "x"), form("token", token), 401, "invalid_client", false},
		{"no client", "", form("token", token), 401, "invalid_client", true},
		{"no client, unknown token", "", form("token", "unknown"), 401, "invalid_client", true},
		{"an answer without a token", basic(client.ID, client.Secret), form(), 400, "invalid_request", true},
		{"an unknown hint", basic(client.ID, client.Secret), form("token", token, "token_type_hint", "at"), 400, "invalid_request", true},
		{"an unknown parameter", basic(client.ID, client.Secret), form("token", token, "scope", "read"), 400, "invalid_request", true},
		{"of a client that cannot authenticate", "", form("token", "s"), 200, "", false},
	} {
		a := post(t, sim, vendorsim.OAuthRevocationURL, test.authorization, test.form)
		assert.Equal(t, test.status, a.status, test.name)
		assert.Equal(t, test.code, a.error(), test.name)
		if test.violation {
			violations++
		}
		assert.Len(t, sim.Violations(), violations, test.name)
	}
	assert.True(t, sim.Accepts(token))
	assert.Equal(t, []string{"s"}, sim.Revoked())

	status, _ := call(t, sim, "GET", vendorsim.OAuthRevocationURL+"?token="+token, nil, "")
	assert.Equal(t, 400, status)
	assert.True(t, sim.Accepts(token))
}
