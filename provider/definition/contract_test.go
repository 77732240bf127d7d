package definition_test

import (
	"crypto"
	"crypto/rsa"
	"net/http"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
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

// So do definitions of the other kinds: a JSON body whose answer states a time of expiry, a token
// presented in a header of its own, a password with refresh tokens, two requests, a request signed by a
// key with revocation, and tokens that the engine signs itself.
func TestDefinitionsOfEachKindKeepTheContractOfAProvider(t *testing.T) {
	const secret, password, apiKey = "client-secret-0123456789", "password-0123456789", "api-key-0123456789"
	text, err := os.ReadFile("../../examples/vendor/acme.json")
	require.NoError(t, err)
	acme, err := definition.Parse("acme", text)
	require.NoError(t, err)
	private := rsaKey()
	public := key().Public().(*rsa.PublicKey)
	simulated := func(register func(*vendorsim.Sim)) func() http.Handler {
		return func() http.Handler {
			sim := vendorsim.New()
			register(sim)
			return sim
		}
	}
	for name, c := range map[string]providertest.Contract{
		"JSON and a time of expiry": {Provider: definition.NewProvider(acme), Kinds: map[string]providertest.Kind{"api_key": {
			Fields: object{"region": "eu", "api_key": apiKey, "scope": []string{"orders.read", "orders.write"}}, Scope: "orders.read",
			Vendor: simulated(func(sim *vendorsim.Sim) { sim.AddAcmeKey(apiKey, "https://eu.api.acme.example") }),
		}}},
		"password with refresh tokens": {Provider: catalogue.Lookup("akeneo"), Kinds: map[string]providertest.Kind{"password": {
			Fields: object{"host": "acme.cloud.akeneo.com", "client_id": "id", "client_secret": secret, "username": "user", "password": password},
			Vendor: simulated(func(sim *vendorsim.Sim) {
				sim.AddAkeneoConnection(vendorsim.AkeneoConnection{ClientID: "id", ClientSecret: secret, Username: "user", Password: password})
			}),
		}}},
		"two requests": {Provider: catalogue.Lookup("dowjones"), Kinds: map[string]providertest.Kind{"service_account": {
			Fields: object{"client_id": "id", "username": "user", "password": password},
			Vendor: simulated(func(sim *vendorsim.Sim) {
				sim.AddDowJonesAccount(vendorsim.DowJonesAccount{ClientID: "id", Username: "user", Password: password})
			}),
		}}},
		"signed request": {Provider: catalogue.Lookup("github-app"), Kinds: map[string]providertest.Kind{"installation": {
			Fields: object{"host": "api.acme.ghe.com", "client_id": "id", "private_key": private, "installation_id": "7"},
			Vendor: simulated(func(sim *vendorsim.Sim) {
				sim.AddGitHubApp(vendorsim.GitHubApp{ClientID: "id", Key: public, InstallationID: "7"})
			}),
		}}},
		"signed token": {Provider: catalogue.Lookup("snowflake"), Kinds: map[string]providertest.Kind{"key_pair": {
			Fields: object{"account": "acme", "user": "ann", "private_key": private}, Offline: true,
			Vendor: simulated(func(sim *vendorsim.Sim) { sim.AddSnowflakeUser("acme", "ann", public) }),
		}}},
	} {
		t.Run(name, func(t *testing.T) { providertest.Test(t, c) })
	}
}
