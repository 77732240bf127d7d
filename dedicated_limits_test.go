package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// issuerClient is a credential whose endpoints are in its issuer's metadata.
func issuerClient() map[string]any {
	fields := secretClient(false)
	delete(fields, "token_url")
	fields["issuer"] = vendorsim.OAuthIssuer
	return fields
}

// metadataDown has the vendor's metadata fail, and nothing else.
func metadataDown() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.Contains(r.URL.Path, "/.well-known/") {
			return vendorsim.Answer(http.StatusServiceUnavailable, "down")
		}
		return nil
	}}
}

func TestNoRoleIsOutgrownWhileTheVendorIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.write("config/oauth2/found", issuerClient())
		e.write("roles/own", map[string]any{"config": "found", "dedicated": true})
		e.write("roles/other", map[string]any{"config": "found", "dedicated": true})
		e.sim.Behave(metadataDown())
		calls := e.exchanges()
		resp, status, message := e.request(logical.UpdateOperation, "config/oauth2/found", map[string]any{"request_timeout": "20s", "verify": false})
		require.Equal(t, http.StatusOK, status, message)
		if resp != nil {
			assert.Empty(t, resp.Warnings)
		}
		assert.Equal(t, calls+1, e.exchanges(), "the vendor is asked once for all roles")

		_, status, message = e.request(logical.UpdateOperation, "roles/third", map[string]any{"config": "found", "dedicated": true})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "the vendor is unavailable: dedicated: auth.example.com: 503 Service Unavailable: down")
	})
}
