package definition_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

const (
	keypairURL     = "https://vault.example.com/v1/tokens/jwks/prod"
	serverURL      = "https://vault.example.com/v1/identity/oidc/plugins"
	serverSubject  = "plugin-identity:root:secret:tokenbroker_1a2b3c"
	credentialPath = "config/acme/prod"

	googleProvider = "projects/123456789012/locations/global/workloadIdentityPools/vault/providers/vault"
	googleAccount  = "billing@acme.iam.gserviceaccount.com"
)

// asIssuer sets what a credential has of a key pair with an issuer: the key of vendorsim.Issuer.
func asIssuer(s *provider.Settings) {
	s.Issuer, s.Subject, s.Thumbprint = keypairURL, credentialPath, vendorsim.Issuer{}.KeyID()
}

// withIdentity sets what a credential has of a server that issues identity tokens.
func withIdentity(s *provider.Settings) {
	s.IdentityToken = func(_ context.Context, audience string, ttl time.Duration) (string, error) {
		return vendorsim.Issuer{URL: serverURL}.Sign(serverSubject, audience, ttl), nil
	}
}

func issuerKeyPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(vendorsim.Issuer{}.Key())}))
}

// entra is an application with a federated credential for a subject of an issuer.
func entra(issuer, subject string) func() http.Handler {
	return func() http.Handler {
		sim := vendorsim.New()
		sim.AddIdentityProvider(issuer, vendorsim.Issuer{URL: issuer}.Fetch)
		sim.AddEntraApp(vendorsim.EntraApp{
			Tenant: "acme.example", ClientID: "app", Subject: subject,
			Trust: vendorsim.Trust{Issuer: issuer, Audiences: []string{vendorsim.EntraAudience}},
		})
		return sim
	}
}

// google is a workload identity pool in which a subject of an issuer can act as an account.
func google(issuer, subject string) func() http.Handler {
	return func() http.Handler {
		sim := vendorsim.New()
		sim.AddIdentityProvider(issuer, vendorsim.Issuer{URL: issuer}.Fetch)
		sim.AddGooglePool(vendorsim.GooglePool{
			Provider: googleProvider, Issuer: issuer, ServiceAccounts: map[string][]string{subject: {googleAccount}},
		})
		return sim
	}
}

// Credentials without a secret keep the contract of a provider: with the issuer of a key pair, and with
// identity tokens of the server.
func TestDefinitionsWithoutASecretKeepTheContractOfAProvider(t *testing.T) {
	app := object{"tenant": "acme.example", "client_id": "app"}
	pool := object{"provider": googleProvider, "scope": []string{vendorsim.GoogleScope, vendorsim.GoogleScope + ".read-only"}}
	key, identity := issuerKeyPEM(), "https://iam.googleapis.com/"+googleProvider
	for vendor, kinds := range map[string]map[string]providertest.Kind{
		"entra": {
			"federated":      {Settings: asIssuer, Vendor: entra(keypairURL, credentialPath), Fields: with(app, "private_key", key)},
			"identity_token": {Settings: withIdentity, Vendor: entra(serverURL, serverSubject), Fields: with(app, "identity_token_audience", vendorsim.EntraAudience)},
		},
		"google-workload-identity": {
			"service_account": {Settings: asIssuer, Vendor: google(keypairURL, credentialPath), Scope: vendorsim.GoogleScope, Fields: with(pool, "private_key", key, "service_account", googleAccount)},
			"direct":          {Settings: asIssuer, Vendor: google(keypairURL, credentialPath), Scope: vendorsim.GoogleScope, Fields: with(pool, "private_key", key)},
			"identity_token_service_account": {
				Settings: withIdentity, Vendor: google(serverURL, serverSubject), Scope: vendorsim.GoogleScope, Fields: with(pool, "identity_token_audience", identity, "service_account", googleAccount),
			},
			"identity_token_direct": {Settings: withIdentity, Vendor: google(serverURL, serverSubject), Scope: vendorsim.GoogleScope, Fields: with(pool, "identity_token_audience", identity)},
		},
	} {
		t.Run(vendor, func(t *testing.T) {
			providertest.Test(t, providertest.Contract{Provider: catalogue.Lookup(vendor), Kinds: kinds})
		})
	}
}
