package oauth2_test

import (
	"crypto"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// This applies to every assertion: of a client, of a JWT bearer grant, of a revocation.
func TestAssertionsAreDatedByTheVendorsClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{
		"right": 0, "40 ms behind": -40 * time.Millisecond, "20 s behind": -20 * time.Second, "20 s ahead": 20 * time.Second, "4 min ahead": 4 * time.Minute,
	} {
		for grant, fields := range map[string]map[string]any{
			"client_credentials": {"private_key": keyPEM(rsaKey()), "revocation_url": vendorsim.OAuthRevocationURL},
			"jwt_bearer":         {"private_key": keyPEM(rsaKey()), "grant_type": "jwt_bearer"},
		} {
			t.Run(name+", "+grant, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sim := newSim(func(c *vendorsim.OAuthClient) {
						c.AuthMethods, c.Secret = []string{vendorsim.PrivateKeyJWT}, ""
						if grant == "jwt_bearer" {
							c.AuthMethods = nil
						}
						c.Keys = map[string]crypto.PublicKey{"": rsaKey().Public()}
						c.Grants = []string{vendorsim.ClientCredentialsGrant, vendorsim.JWTBearerGrant}
					})
					sim.Behave(vendorsim.Conduct{StrictDates: true, Skew: skew})
					credential := open(t, sim, fields)
					var answer *provider.Answer
					for range 5 {
						answer = exchange(t, sim, credential, provider.Grant{})
						time.Sleep(17 * time.Millisecond)
					}
					assert.LessOrEqual(t, len(sim.Calls()), 6, "one refusal shows the vendor's clock")
					if grant == "client_credentials" {
						require.NoError(t, credential.(provider.Revoker).Revoke(t.Context(), answer.AccessToken, provider.Grant{}))
						assert.False(t, sim.Accepts(answer.AccessToken))
					}
				})
			})
		}
	}
}
