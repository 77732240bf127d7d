//go:build e2e

package e2e

import (
	"crypto"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

const (
	oauthClientID = "oauth2-client-0123456789"
	oauthSecret   = "oauth2-secret-0123456789"

	payrollClientID = "oauth2-payroll-0123456789"
)

// registerKey registers a client with the generic OAuth 2.0 vendor, with the key that a page
// generates in Vault, once its file exists.
func registerKey(sim *vendorsim.Sim, dir string) {
	var key jose.JSONWebKey
	if jwk, err := os.ReadFile(filepath.Join(dir, "payroll.jwk")); err != nil || key.UnmarshalJSON(jwk) != nil {
		return
	}
	sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: payrollClientID, Scopes: []string{"invoices.read"}, AuthMethods: []string{vendorsim.PrivateKeyJWT},
		Keys: map[string]crypto.PublicKey{key.KeyID: key.Key}, Algorithms: []string{key.Algorithm},
		Grants: []string{vendorsim.ClientCredentialsGrant},
	})
}

// account is a customer's account at a vendor, with the values in docs/oauth2.md.
type account struct {
	params  map[string]string // preset_params
	token   map[string]string // token_params
	scopes  []string
	subject string
	keyID   string
}

// accounts has an account for each preset.
var accounts = map[string]account{
	"auth0":      {params: map[string]string{"domain": "acme.us"}, token: map[string]string{"audience": "https://api.example.com"}},
	"bitbucket":  {},
	"box":        {params: map[string]string{"enterprise_id": "1234567"}},
	"docusign":   {subject: "9e3c5d0e-7a51-4c0b-8f0e-2d5f6a7b8c9d"},
	"entra":      {params: map[string]string{"tenant": "acme.onmicrosoft.com"}},
	"gitlab":     {token: map[string]string{"redirect_uri": "https://app.example.com/callback"}},
	"google":     {scopes: []string{"https://www.googleapis.com/auth/devstorage.read_only"}, keyID: "0123456789abcdef"},
	"hubspot":    {},
	"okta":       {params: map[string]string{"domain": "acme"}, scopes: []string{"invoices.read"}},
	"paypal":     {},
	"salesforce": {params: map[string]string{"domain": "acme"}, subject: "integration@example.com"},
	"slack":      {},
	"xero":       {scopes: []string{"accounting.reports.read"}},
	"zoom":       {params: map[string]string{"account_id": "Wk9PTV9BQ0NPVU5U"}},
}

// oauthCustomer registers a customer with the vendor of each preset, and with a generic one. It
// returns the environment variables with the customer's credentials, and writes oauth2.pem.
func oauthCustomer(t *testing.T, sim *vendorsim.Sim, dir string) []string {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "oauth2.pem"), []byte(privateKeyPEM()), 0o600))
	generic := vendorsim.OAuthClient{
		ID: oauthClientID, Secret: oauthSecret, Scopes: []string{"invoices.read", "invoices.write"},
		AuthMethods: []string{vendorsim.SecretBasic, vendorsim.PrivateKeyJWT},
		Keys:        map[string]crypto.PublicKey{"": privateKey().Public()},
		Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
		Rotate:      true,
	}
	sim.AddOAuthClient(generic)
	environ := []string{
		"OAUTH2_CLIENT_ID=" + oauthClientID, "OAUTH2_CLIENT_SECRET=" + oauthSecret,
		"OAUTH2_PAYROLL_CLIENT_ID=" + payrollClientID,
	}
	refresh := func(client vendorsim.OAuthClient, name string) {
		token := "refresh-token-of-" + name + "-0123456789"
		sim.AddOAuthRefreshToken(client, token, client.Scopes...)
		environ = append(environ, strings.ToUpper(name)+"_REFRESH_TOKEN="+token)
	}
	refresh(generic, "oauth2")
	for _, preset := range oauth2.Presets() {
		account, known := accounts[preset.Name]
		require.True(t, known, "there is no account for preset %s", preset.Name)
		client := account.open(t, sim, preset)
		if preset.GrantTypes[0] == "refresh_token" {
			refresh(client, preset.Name)
		}
	}
	return environ
}

// open registers the customer with the vendor of a preset.
func (a account) open(t *testing.T, sim *vendorsim.Sim, preset oauth2.Preset) vendorsim.OAuthClient {
	t.Helper()
	fields, err := preset.Fields(a.params)
	require.NoError(t, err)
	text := func(field string) string {
		value, _ := fields[field].(string)
		return value
	}
	endpoint, err := url.Parse(text("token_url"))
	require.NoError(t, err)
	server := vendorsim.OAuthServer{
		Issuer: endpoint.Scheme + "://" + endpoint.Host, TokenURL: endpoint.String(), RevocationURL: text("revocation_url"),
	}
	sim.AddOAuthServer(server)

	client := vendorsim.OAuthClient{
		Issuer: server.Issuer, ID: oauthClientID, Secret: oauthSecret,
		AuthMethods: []string{text("auth_style")},
		Params:      map[string]string{},
		Scopes:      append(a.scopes, preset.Scope...),
		Rotate:      true,
	}
	if client.AuthMethods[0] == "" {
		client.AuthMethods[0] = vendorsim.SecretPost // not the style that is tried first
	}
	filled, _ := fields["token_params"].(map[string]string)
	maps.Copy(client.Params, filled)
	maps.Copy(client.Params, a.token)
	switch grant := preset.GrantTypes[0]; grant {
	case "jwt_bearer":
		client.Grants, client.AuthMethods, client.Secret = []string{vendorsim.JWTBearerGrant}, nil, ""
		client.Keys = map[string]crypto.PublicKey{a.keyID: privateKey().Public()}
		client.Audience, client.Subject, client.ScopeInAssertion = text("assertion_audience"), a.subject, preset.ScopeInAssertion
	default:
		client.Grants = []string{grant}
	}
	delete(client.Params, "account_id") // part of the grant itself
	sim.AddOAuthClient(client)
	return client
}
