package vendorsim_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func refresh(t *testing.T, sim http.Handler, c vendorsim.OAuthClient, token string, pairs ...string) answered {
	t.Helper()
	return post(t, sim, vendorsim.OAuthTokenURL, basic(c.ID, c.Secret), form(append(pairs, "grant_type", "refresh_token", "refresh_token", token)...))
}

func TestARotatingRefreshTokenCanBeUsedOnce(t *testing.T) {
	sim := vendorsim.New()
	rotating := client
	rotating.Rotate = true
	sim.AddOAuthClient(rotating)
	sim.AddOAuthRefreshToken(rotating, "first", "read", "write")

	narrow := refresh(t, sim, rotating, "first", "scope", "read")
	assert.Equal(t, "read", narrow.string("scope"))
	whole := refresh(t, sim, rotating, narrow.refreshToken())
	assert.Equal(t, "read write", whole.string("scope"), "the new refresh token has the scope of the old one")
	assert.NotEqual(t, narrow.refreshToken(), whole.refreshToken())

	assert.Equal(t, "invalid_grant", refresh(t, sim, rotating, "first").error())
	assert.Equal(t, "invalid_grant", refresh(t, sim, rotating, whole.refreshToken()).error(), "the use of an old refresh token revokes the current one")
	assert.True(t, sim.Accepts(whole.token()))
	assert.Empty(t, sim.Violations())
}

func TestARefreshTokenWithoutRotationStaysValid(t *testing.T) {
	sim := vendorsim.New()
	sim.AddOAuthClient(client)
	sim.AddOAuthRefreshToken(client, "r", "read")
	for range 3 {
		a := refresh(t, sim, client, "r")
		assert.True(t, sim.Accepts(a.token()))
		assert.NotContains(t, a.body, "refresh_token")
	}
	assert.Equal(t, 3, sim.ValidTokens())
	assert.Equal(t, "invalid_scope", refresh(t, sim, client, "r", "scope", "write").error(), "its scope is narrower than the client's")

	other := client
	other.ID = "other"
	sim.AddOAuthClient(other)
	assert.Equal(t, "invalid_grant", refresh(t, sim, other, "r").error())
	assert.Equal(t, "invalid_grant", refresh(t, sim, client, refresh(t, sim, client, "r").token()).error(), "an access token is not a refresh token")
	assert.Equal(t, 200, refresh(t, sim, client, "r").status, "the failed attempts have no effect")
	sim.RevokeCredential("r")
	assert.Equal(t, "invalid_grant", refresh(t, sim, client, "r").error())
	assert.Empty(t, sim.Violations())
}

func TestRequirementsBeyondTheStandards(t *testing.T) {
	sim := vendorsim.New()
	auth0 := client
	auth0.ID, auth0.Params = "auth0", map[string]string{"audience": "https://api.example"}
	sim.AddOAuthClient(auth0)
	zoom := client
	zoom.ID, zoom.Grants, zoom.Params = "zoom", []string{vendorsim.AccountCredentialsGrant}, map[string]string{"account_id": "a1"}
	sim.AddOAuthClient(zoom)
	ask := func(c vendorsim.OAuthClient, pairs ...string) answered {
		return post(t, sim, vendorsim.OAuthTokenURL, basic(c.ID, c.Secret), form(pairs...))
	}

	assert.Equal(t, 200, ask(auth0, "grant_type", "client_credentials", "audience", "https://api.example").status)
	assert.Equal(t, "invalid_request", ask(auth0, "grant_type", "client_credentials").error())
	assert.Equal(t, "invalid_request", ask(auth0, "grant_type", "client_credentials", "audience", "x").error())
	assert.Equal(t, 200, ask(zoom, "grant_type", "account_credentials", "account_id", "a1").status)
	assert.Equal(t, "invalid_request", ask(zoom, "grant_type", "account_credentials", "account_id", "a2").error())
	assert.Empty(t, sim.Violations(), "mistakes of an operator are not violations")
	assert.Equal(t, "invalid_request", ask(zoom, "grant_type", "account_credentials").error())
	assert.Len(t, sim.Violations(), 1)
}

func TestTheLifetimeIsStatedInTheVendorsFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		short := client
		short.Lifetime = 10 * time.Minute
		sim.AddOAuthClient(short)
		ask := func(c vendorsim.Conduct) answered {
			sim.Behave(c)
			return post(t, sim, vendorsim.OAuthTokenURL, basic(short.ID, short.Secret), form("grant_type", "client_credentials"))
		}
		a := ask(vendorsim.Conduct{})
		assert.Equal(t, map[string]any{"access_token": a.token(), "token_type": "Bearer", "scope": "read write", "expires_in": 600.0}, a.body)
		assert.Equal(t, time.Now().Add(10*time.Minute), sim.Expiry(a.token()))
		assert.Equal(t, "600", ask(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{Stringly: true}}).body["expires_in"])
		assert.NotContains(t, ask(vendorsim.Conduct{Unstated: true}).body, "expires_in")
		assert.Equal(t, true, ask(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{Slack: true}}).body["ok"])

		sticky := vendorsim.Conduct{Sticky: true}
		last := ask(sticky)
		time.Sleep(4 * time.Minute)
		again := ask(sticky)
		assert.Equal(t, last.token(), again.token())
		assert.InDelta(t, 360, again.body["expires_in"], 0)
		time.Sleep(6 * time.Minute)
		assert.NotEqual(t, last.token(), ask(sticky).token())
		assert.False(t, sim.Accepts(last.token()))
	})
}

func TestMetadataAreAtTheStandardLocations(t *testing.T) {
	sim := vendorsim.New()
	sim.AddOAuthServer(vendorsim.OAuthServer{
		Issuer: "https://login.example/tenant", TokenURL: "https://login.example/tenant/token", Metadata: []string{vendorsim.OAuthMetadata},
	})
	const base, none = "http://127.0.0.1:8080", ""
	for url, issuer := range map[string]string{
		"https://auth.example.com/.well-known/oauth-authorization-server":     "https://auth.example.com",
		"https://auth.example.com/.well-known/openid-configuration":           "https://auth.example.com",
		"https://login.example/.well-known/oauth-authorization-server/tenant": "https://login.example/tenant",
		"https://login.example/tenant/.well-known/openid-configuration":       none,
		base + "/.well-known/oauth-authorization-server/auth.example.com":     base + "/auth.example.com",
		base + "/auth.example.com/.well-known/openid-configuration":           base + "/auth.example.com",
		base + "/.well-known/oauth-authorization-server/login.example/tenant": base + "/login.example/tenant",
		base + "/login.example/tenant/.well-known/openid-configuration":       none,
	} {
		a := get(t, sim, url)
		if issuer == none {
			assert.Equal(t, 404, a.status, url)
			continue
		}
		assert.Equal(t, 200, a.status, url)
		assert.Equal(t, issuer, a.string("issuer"))
		if issuer == "https://login.example/tenant" {
			assert.Equal(t, "https://login.example/tenant/token", a.string("token_endpoint"))
			assert.NotContains(t, a.body, "revocation_endpoint", "it has none")
		}
	}
	a := get(t, sim, base+"/auth.example.com/.well-known/openid-configuration")
	assert.Equal(t, vendorsim.URL(base, vendorsim.OAuthTokenURL), a.string("token_endpoint"))
	assert.Equal(t, vendorsim.URL(base, vendorsim.OAuthRevocationURL), a.string("revocation_endpoint"))
	assert.Empty(t, sim.Violations(), "probing for metadata is not a violation")

	post(t, sim, "https://auth.example.com/.well-known/openid-configuration", "", form())
	get(t, sim, "https://auth.example.com/.well-known/openid-configuration?x=1")
	get(t, sim, "https://unknown.example/.well-known/openid-configuration")
	assert.Len(t, sim.Violations(), 3)
}

func TestAClientMayBeLimitedToOneScopeInEachRequest(t *testing.T) {
	sim := vendorsim.New()
	one := client
	one.OneScope = true
	sim.AddOAuthClient(one)
	ask := func(scope string) answered {
		return post(t, sim, vendorsim.OAuthTokenURL, basic(one.ID, one.Secret), form("grant_type", "client_credentials", "scope", scope))
	}
	assert.Equal(t, 200, ask("read").status)
	assert.Equal(t, "invalid_scope", ask("").error())
	assert.Equal(t, "invalid_scope", ask("read write").error())
	assert.Empty(t, sim.Violations())
}

func TestTwoSecretsOfAClientAreValidDuringARotation(t *testing.T) {
	sim := vendorsim.New()
	rotating := client
	rotating.NextSecret = "next"
	sim.AddOAuthClient(client)
	ask := func(secret string) answered {
		return post(t, sim, vendorsim.OAuthTokenURL, basic(client.ID, secret), form("grant_type", "client_credentials"))
	}
	assert.Equal(t, "invalid_client", ask("next").error())
	sim.AddOAuthClient(rotating)
	assert.Equal(t, 200, ask(client.Secret).status)
	assert.Equal(t, 200, ask("next").status)
	assert.Equal(t, "invalid_client", ask("other").error())
	assert.Contains(t, sim.Secrets(), "next")
}

func TestAnErrorHasTheVendorsDescription(t *testing.T) {
	sim := vendorsim.New()
	sim.AddOAuthServer(vendorsim.OAuthServer{
		Issuer: vendorsim.OAuthIssuer, TokenURL: vendorsim.OAuthTokenURL,
		Descriptions: map[string]string{"invalid_client": "AADSTS7000215", "invalid_request": "not shown"},
	})
	sim.AddOAuthClient(client)
	ask := func(secret string, pairs ...string) string {
		return post(t, sim, vendorsim.OAuthTokenURL, basic(client.ID, secret), form(pairs...)).string("error_description")
	}
	assert.Equal(t, "AADSTS7000215", ask("x", "grant_type", "client_credentials"))
	assert.Contains(t, ask(client.Secret, "grant_type", "client_credentials", "scope", "admin"), "not allowed")
	assert.Equal(t, "grant_type is missing", ask(client.Secret, "scope", "read"), "the description of a violation stays")
}

func TestAServerMayOmitTheLifetime(t *testing.T) {
	sim := vendorsim.New()
	sim.AddOAuthServer(vendorsim.OAuthServer{Issuer: vendorsim.OAuthIssuer, TokenURL: vendorsim.OAuthTokenURL, Unstated: true})
	sim.AddOAuthClient(client)
	a := post(t, sim, vendorsim.OAuthTokenURL, basic(client.ID, client.Secret), form("grant_type", "client_credentials"))
	assert.True(t, sim.Accepts(a.token()))
	assert.NotContains(t, a.body, "expires_in")
}
