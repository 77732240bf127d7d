package definition_test

import (
	"crypto"
	"net/http"
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

// A definition of plain OAuth 2.0 keeps the contract of a provider, with each way to authenticate.
func TestDefinitionsKeepTheContractOfAProvider(t *testing.T) {
	const id, secret, refreshToken = "0oa1clientid2", "client-secret-0123456789", "a-refresh-token-0123456789"
	scopes := []string{"read", "write"}
	client := vendorsim.OAuthClient{
		ID: id, Secret: secret, Scopes: scopes, AuthMethods: []string{vendorsim.SecretBasic, vendorsim.PrivateKeyJWT},
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
	client.Keys = map[string]crypto.PublicKey{"": key().Public()}
	vendor := func() http.Handler {
		sim := vendorsim.New()
		sim.AddOAuthClient(client)
		sim.AddOAuthRefreshToken(client, refreshToken, scopes...)
		return sim
	}
	changes := threeGrants()
	grants := changes[len(changes)-1].value.([]any)
	for _, grant := range grants {
		if grant.(object)["auth"] == "client_secret_post" {
			grant.(object)["auth"] = "client_secret_basic"
		}
	}
	grants[0].(object)["request"].(object)["form"].(object)["scope"] = "{scope}"
	p := parsed(t, append(changes,
		change{"/fields/account", nil}, change{"/token_url", vendorsim.OAuthTokenURL}, change{"/revocation", object{"url": vendorsim.OAuthRevocationURL}},
		change{"/refresh_token/idle_expiry", "7d"},
	)...)
	fields := object{"client_id": id, "scope": scopes}
	providertest.Test(t, providertest.Contract{Provider: p, Kinds: map[string]providertest.Kind{
		"secret":        {Vendor: vendor, Scope: "read", Fields: with(fields, "client_secret", secret)},
		"private key":   {Vendor: vendor, Scope: "read", Fields: with(fields, "private_key", rsaKey())},
		"refresh token": {Vendor: vendor, Scope: "read", Fields: with(fields, "client_secret", secret, "refresh_token", refreshToken, "grant_type", "refresh_token")},
	}})
}
