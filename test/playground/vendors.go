package main

import (
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/internal/vendorproxy"
)

// The credentials that the simulated vendors accept.
const (
	kenshoRefreshToken = "playground-kensho-refresh-token"
	sitecoreAPIKey     = "01-playground-sitecore-api-key"
	oauthClientID      = "playground-oauth2-client"
	oauthClientSecret  = "playground-oauth2-secret"
)

// newVendors returns simulated vendors that accept the credentials above, and switches that take
// them down. Kensho's tokens of a refresh token expire 50 minutes from now and then every hour, and
// not on the full hour, which may be near.
func newVendors(now time.Time) (*vendorsim.Sim, *vendorproxy.Switches) {
	sim, switches := vendorsim.New(), vendorproxy.NewSwitches()
	sim.AddRefreshToken("link-streaming", kenshoRefreshToken)
	sim.AddAPIKey(sitecoreAPIKey)
	sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: oauthClientID, Secret: oauthClientSecret, Scopes: []string{"invoices.read", "invoices.write"},
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	expiry := now.Add(50 * time.Minute).Truncate(time.Second)
	sim.Behave(vendorsim.Conduct{HourOffset: expiry.Sub(expiry.Truncate(time.Hour)), Fault: switches.Fault})
	return sim, switches
}
