package customer

import (
	"crypto"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	oauthClientID   = "oauth2-client-0123456789"
	oauthSecret     = "oauth2-secret-0123456789"
	oauthNextSecret = "oauth2-next-secret-0123456789"

	// redirectURI is where people's consents return to.
	redirectURI = "https://vault.example.com/v1/saas/callback"
)

// An account is what the customer has at a vendor with a page of its own. The URLs, parameters and
// messages are those of the vendor's documentation. They do not come from the vendor's definition, so
// that a mistake in it fails the page.
type account struct {
	vendor string // prefix of the variables, in lower case
	server vendorsim.OAuthServer
	client vendorsim.OAuthClient // without Issuer, ID and secrets
}

// The accounts at all vendors but Google, whose client has no secret.
var (
	entra = account{
		"entra",
		vendorsim.OAuthServer{
			Issuer:   "https://login.microsoftonline.com",
			TokenURL: "https://login.microsoftonline.com/acme.onmicrosoft.com/oauth2/v2.0/token",
			Descriptions: map[string]string{
				"invalid_client": "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '" + oauthClientID + "'.",
			},
		},
		vendorsim.OAuthClient{
			AuthMethods: []string{vendorsim.SecretPost},
			Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.TokenExchangeGrant},
			Scopes:      []string{"https://graph.microsoft.com/.default", "api://billing/.default", "https://graph.microsoft.com/User.Read"}, OneScope: true,
		},
	}
	gitlab = account{
		"gitlab",
		vendorsim.OAuthServer{
			Issuer:        "https://gitlab.com",
			TokenURL:      "https://gitlab.com/oauth/token",
			RevocationURL: "https://gitlab.com/oauth/revoke",
		},
		vendorsim.OAuthClient{
			AuthMethods: []string{vendorsim.SecretPost},
			Grants:      []string{vendorsim.RefreshTokenGrant}, Rotate: true,
			Params: map[string]string{"redirect_uri": "https://app.example.com/callback"},
		},
	}
	okta = account{
		"okta",
		vendorsim.OAuthServer{
			Issuer:        "https://acme.okta.com",
			TokenURL:      "https://acme.okta.com/oauth2/default/v1/token",
			RevocationURL: "https://acme.okta.com/oauth2/default/v1/revoke",
		},
		vendorsim.OAuthClient{
			AuthMethods: []string{vendorsim.SecretBasic},
			Grants:      []string{vendorsim.ClientCredentialsGrant},
			Scopes:      []string{"invoices.read", "invoices.write"},
		},
	}
	salesforce = account{
		"salesforce",
		vendorsim.OAuthServer{
			Issuer:       "https://acme.my.salesforce.com",
			TokenURL:     "https://acme.my.salesforce.com/services/oauth2/token",
			Unstated:     true,
			Descriptions: map[string]string{"invalid_grant": "Audience validation failed"},
		},
		vendorsim.OAuthClient{
			AuthMethods: []string{vendorsim.SecretPost},
			Grants:      []string{vendorsim.ClientCredentialsGrant},
		},
	}
)

// userTokenLifetime is the lifetime of the tokens of a person who has logged in to an application of the customer.
const userTokenLifetime = 24 * time.Hour

// addOAuth registers the customer with a server of no known vendor, and with the known ones.
func (c *Customer) addOAuth(k *privateKeys) {
	generic := vendorsim.OAuthClient{
		ID: oauthClientID, Secret: oauthSecret, NextSecret: oauthNextSecret, Scopes: []string{"invoices.read", "invoices.write", "openid"},
		AuthMethods: []string{vendorsim.SecretBasic, vendorsim.PrivateKeyJWT},
		Keys:        map[string]crypto.PublicKey{"": k.first.Public()},
		Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant, vendorsim.DeviceCodeGrant, vendorsim.TokenExchangeGrant},
		Targets:     []string{"ledger"},
		RedirectURI: redirectURI,
		Rotate:      true,
	}
	c.sim.AddOAuthClient(generic)
	c.variables["OAUTH2_CLIENT_ID"], c.variables["OAUTH2_CLIENT_SECRET"] = generic.ID, generic.Secret
	c.variables["USER_TOKEN"] = c.sim.Subject(generic, "ada", userTokenLifetime, nil)
	c.variables["OAUTH2_NEXT_CLIENT_SECRET"] = generic.NextSecret
	for _, name := range []string{"oauth2", "crm", "oauthapp"} {
		c.addRefreshToken(generic, name)
	}
	machine := vendorsim.OAuthClient{
		ID: "oauth2-machine-0123456789", Secret: "oauth2-machine-secret-0123456789", Scopes: []string{"invoices.read"},
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
		Params: map[string]string{"audience": "https://api.example.com"},
	}
	c.sim.AddOAuthClient(machine)
	c.variables["MACHINE_CLIENT_ID"], c.variables["MACHINE_CLIENT_SECRET"] = machine.ID, machine.Secret
	orders := vendorsim.OAuthClient{
		ID: "oauth2-orders-0123456789", Secret: "oauth2-orders-secret-0123456789", Scopes: []string{"orders.read"},
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
		Audiences: []string{"https://billing.example.com", "https://search.example.com"},
	}
	c.sim.AddOAuthClient(orders)
	c.variables["ORDERS_CLIENT_ID"], c.variables["ORDERS_CLIENT_SECRET"] = orders.ID, orders.Secret
	for _, a := range []account{entra, gitlab, okta, salesforce} {
		c.open(a)
	}
	c.variables["ENTRA_SECRET_ID"] = c.sim.AddEntraSecret(entra.registered())
	c.variables["ENTRA_USER_TOKEN"] = c.sim.Subject(entra.registered(), "ada", userTokenLifetime, nil)
	c.addGoogle(k)
	c.addGitHub(k)
}

// registered returns the client with its ID and secrets.
func (a account) registered() vendorsim.OAuthClient {
	client := a.client
	client.Issuer, client.ID, client.Secret, client.NextSecret = a.server.Issuer, oauthClientID, oauthSecret, oauthNextSecret
	return client
}

// open opens an account.
func (c *Customer) open(a account) {
	client := a.registered()
	c.sim.AddOAuthServer(a.server)
	c.sim.AddOAuthClient(client)
	prefix := strings.ToUpper(a.vendor)
	c.variables[prefix+"_CLIENT_ID"] = client.ID
	c.variables[prefix+"_CLIENT_SECRET"] = client.Secret
	c.variables[prefix+"_NEXT_CLIENT_SECRET"] = client.NextSecret
	if client.Rotate {
		c.addRefreshToken(client, a.vendor)
	}
}

func (c *Customer) addRefreshToken(client vendorsim.OAuthClient, name string) {
	token := "refresh-token-of-" + name + "-0123456789"
	c.sim.AddOAuthRefreshToken(client, token, client.Scopes...)
	c.variables[strings.ToUpper(name)+"_REFRESH_TOKEN"] = token
}

// addGitHub adds the customer's GitHub App, which is installed on three repositories.
func (c *Customer) addGitHub(k *privateKeys) {
	app := vendorsim.GitHubApp{
		ClientID: "Iv23liabcdefghijklmn", Key: &k.first.PublicKey, InstallationID: "12345678",
		Repositories: []string{"site", "tools", "infrastructure"},
		Permissions:  map[string]string{"contents": "write", "issues": "write"},
	}
	c.sim.AddGitHubApp(app)
	c.variables["GITHUB_CLIENT_ID"], c.variables["GITHUB_INSTALLATION_ID"] = app.ClientID, app.InstallationID
}

// addGoogle adds the customer's service accounts at Google: one with two keys, and one with domain-wide
// delegation.
func (c *Customer) addGoogle(k *privateKeys) {
	google := vendorsim.OAuthServer{
		Issuer:       "https://oauth2.googleapis.com",
		TokenURL:     "https://oauth2.googleapis.com/token",
		Descriptions: map[string]string{"invalid_grant": "Invalid JWT Signature."},
	}
	c.sim.AddOAuthServer(google)
	c.sim.AddOAuthClient(vendorsim.OAuthClient{
		Issuer: google.Issuer, ID: googleAccount,
		Keys:   map[string]crypto.PublicKey{googleKeyID: k.first.Public(), googleNextKeyID: k.next.Public()},
		Grants: []string{vendorsim.JWTBearerGrant}, ScopeInAssertion: true,
		Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/drive.readonly"},
	})
	c.sim.AddOAuthClient(vendorsim.OAuthClient{
		Issuer: google.Issuer, ID: peoplesAccount, Keys: map[string]crypto.PublicKey{googleKeyID: k.first.Public()},
		Grants: []string{vendorsim.JWTBearerGrant}, ScopeInAssertion: true, Subjects: []string{"alice@example.com", "bob@example.com"},
		Scopes: []string{"https://www.googleapis.com/auth/calendar.readonly"},
	})
}
