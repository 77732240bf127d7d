package providertest

import (
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// testDestinations checks that each request goes to one of the credential's Destinations. A
// write could change a URL that is missing there without knowing the secret.
func (k Kind) testDestinations(t *testing.T, c Contract) {
	if k.Offline {
		to := c.open(t, k, http.NotFoundHandler()).Destinations()
		assert.Empty(t, to.URLs, "the secret is never sent")
		assert.Empty(t, to.Issuer)
		return
	}
	vendor := k.Vendor()
	var called []string
	credential := c.open(t, k, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called = append(called, r.Host+r.URL.Path)
		vendor.ServeHTTP(w, r)
	}))
	answer, next := exchange(t, credential, provider.Grant{})
	if revoker, ok := credential.(provider.Revoker); ok && revoker.Revocable(t.Context()) == nil {
		require.NoError(t, revoker.Revoke(t.Context(), answer.AccessToken, next))
	}
	to := credential.Destinations()
	var urls []string
	for _, raw := range to.URLs {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		urls = append(urls, u.Host+u.Path)
	}
	require.NotEmpty(t, called)
	for _, one := range called {
		host := provider.Host("https://" + one)
		isIssuer := to.Issuer != "" && host == provider.Host(to.Issuer)
		assert.True(t, isIssuer || slices.Contains(urls, one), "%s is among the credential's Destinations", one)
	}
}
