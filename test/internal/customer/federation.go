package customer

import "vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"

// addFederation adds what trusts the customer's Vault as an identity provider: an application of Entra, and a
// workload identity pool of Google. Vault is on the loopback interface, at a port that is not known yet.
func (c *Customer) addFederation() {
	const vault = "http://127.0.0.1/v1/"
	c.sim.AddEntraApp(vendorsim.EntraApp{
		Tenant: "acme.example", ClientID: "97e0a5b7-d745-40b6-94fe-5f77d35c6e05", Subject: "config/entra/graph",
		Trust: vendorsim.Trust{Issuer: vault + "keyless/jwks/graph", Audiences: []string{vendorsim.EntraAudience}},
	})
	c.sim.AddGooglePool(vendorsim.GooglePool{
		Provider: "projects/123456789012/locations/global/workloadIdentityPools/vault/providers/vault", Issuer: vault + "keyless/jwks/billing",
		ServiceAccounts: map[string][]string{"config/google-workload-identity/billing": {"billing@acme.iam.gserviceaccount.com"}},
	})
}
