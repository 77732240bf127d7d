package customer

import (
	"cmp"
	"crypto"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

const (
	oauthClientID   = "oauth2-client-0123456789"
	oauthSecret     = "oauth2-secret-0123456789"
	oauthNextSecret = "oauth2-next-secret-0123456789"
)

// account is a customer's account at a vendor, with the values in the vendor's page or in
// docs/oauth2.md.
type account struct {
	params   map[string]string // preset_params
	token    map[string]string // token_params
	grant    string            // default: the preset's
	id       string            // client ID, default: oauthClientID
	scopes   []string
	subject  string
	isGoogle bool // the keys have IDs

	hasVariables bool // the vendor's page has variables of its own for the ID and the secrets
	oneScope     bool
	unstated     bool              // responses do not state the lifetime
	descriptions map[string]string // of errors, by code
}

// accounts has an account for each preset.
var accounts = map[string]account{
	"auth0":     {params: map[string]string{"domain": "acme.us"}, token: map[string]string{"audience": "https://api.example.com"}},
	"bitbucket": {},
	"box":       {params: map[string]string{"enterprise_id": "1234567"}},
	"docusign":  {subject: "9e3c5d0e-7a51-4c0b-8f0e-2d5f6a7b8c9d"},
	"entra": {
		hasVariables: true,
		params:       map[string]string{"tenant": "acme.onmicrosoft.com"}, scopes: []string{"api://billing/.default"}, oneScope: true,
		descriptions: map[string]string{
			"invalid_client": "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '" + oauthClientID + "'.",
		},
	},
	"gitlab": {hasVariables: true, token: map[string]string{"redirect_uri": "https://app.example.com/callback"}},
	"google": {
		scopes:       []string{"https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/drive.readonly"},
		id:           googleAccount,
		isGoogle:     true,
		descriptions: map[string]string{"invalid_grant": "Invalid JWT Signature."},
	},
	"hubspot": {},
	"okta":    {hasVariables: true, params: map[string]string{"domain": "acme"}, scopes: []string{"invoices.read", "invoices.write"}},
	"paypal":  {},
	"salesforce": {
		hasVariables: true,
		params:       map[string]string{"domain": "acme"}, grant: "client_credentials", unstated: true,
		descriptions: map[string]string{"invalid_grant": "Audience validation failed"},
	},
	"slack": {},
	"xero":  {scopes: []string{"accounting.reports.read"}},
	"zoom":  {params: map[string]string{"account_id": "Wk9PTV9BQ0NPVU5U"}},
}

// addOAuth registers the customer with the vendor of each preset, and with a generic one.
func (c *Customer) addOAuth(k *privateKeys) error {
	generic := vendorsim.OAuthClient{
		ID: oauthClientID, Secret: oauthSecret, Scopes: []string{"invoices.read", "invoices.write"},
		AuthMethods: []string{vendorsim.SecretBasic, vendorsim.PrivateKeyJWT},
		Keys:        map[string]crypto.PublicKey{"": k.first.Public()},
		Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
		Rotate:      true,
	}
	c.sim.AddOAuthClient(generic)
	c.variables["OAUTH2_CLIENT_ID"], c.variables["OAUTH2_CLIENT_SECRET"] = generic.ID, generic.Secret
	c.addRefreshToken(generic, "oauth2")
	for _, preset := range oauth2.Presets() {
		account, isKnown := accounts[preset.Name]
		if !isKnown {
			return fmt.Errorf("there is no account for the preset %s", preset.Name)
		}
		client, err := account.open(c.sim, preset, k)
		if err != nil {
			return err
		}
		if prefix := strings.ToUpper(preset.Name); account.hasVariables {
			c.variables[prefix+"_CLIENT_ID"] = client.ID
			c.variables[prefix+"_CLIENT_SECRET"] = client.Secret
			c.variables[prefix+"_NEXT_CLIENT_SECRET"] = client.NextSecret
		}
		if preset.GrantTypes[0] == "refresh_token" {
			c.addRefreshToken(client, preset.Name)
		}
	}
	return nil
}

func (c *Customer) addRefreshToken(client vendorsim.OAuthClient, name string) {
	token := "refresh-token-of-" + name + "-0123456789"
	c.sim.AddOAuthRefreshToken(client, token, client.Scopes...)
	c.variables[strings.ToUpper(name)+"_REFRESH_TOKEN"] = token
}

// open registers the customer with the vendor of a preset.
func (a account) open(sim *vendorsim.Sim, preset oauth2.Preset, k *privateKeys) (client vendorsim.OAuthClient, err error) {
	filled, err := preset.Filled(a.params)
	if err != nil {
		return client, err
	}
	endpoint, err := url.Parse(filled.TokenURL)
	if err != nil {
		return client, err
	}
	server := vendorsim.OAuthServer{
		Issuer: endpoint.Scheme + "://" + endpoint.Host, TokenURL: endpoint.String(), RevocationURL: filled.RevocationURL,
		Descriptions: a.descriptions, Unstated: a.unstated,
	}
	sim.AddOAuthServer(server)

	client = vendorsim.OAuthClient{
		Issuer: server.Issuer, ID: cmp.Or(a.id, oauthClientID), Secret: oauthSecret, NextSecret: oauthNextSecret,
		AuthMethods: []string{filled.AuthStyle},
		Params:      map[string]string{},
		Scopes:      slices.Concat(a.scopes, preset.Scope),
		OneScope:    a.oneScope,
		Rotate:      true,
	}
	if client.AuthMethods[0] == "" {
		client.AuthMethods[0] = vendorsim.SecretPost // not the style that is tried first
	}
	maps.Copy(client.Params, filled.TokenParams)
	maps.Copy(client.Params, a.token)
	switch grant := cmp.Or(a.grant, preset.GrantTypes[0]); grant {
	case "jwt_bearer":
		client.Grants, client.AuthMethods, client.Secret, client.NextSecret = []string{vendorsim.JWTBearerGrant}, nil, "", ""
		if client.Keys = map[string]crypto.PublicKey{"": k.first.Public()}; a.isGoogle {
			client.Keys = map[string]crypto.PublicKey{googleKeyID: k.first.Public(), googleNextKeyID: k.next.Public()}
		}
		client.Audience, client.Subject, client.ScopeInAssertion = filled.AssertionAudience, a.subject, preset.ScopeInAssertion
	default:
		client.Grants = []string{grant}
	}
	delete(client.Params, "account_id") // part of the grant itself
	sim.AddOAuthClient(client)
	return client, nil
}
