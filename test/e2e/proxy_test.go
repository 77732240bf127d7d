//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/vendorproxy"
)

// behindProxy returns the environment of a server whose requests to other hosts reach the simulated
// vendors. A request to a host of no vendor is a violation.
func behindProxy(t *testing.T, vendors http.Handler, routes map[string]string) []string {
	t.Helper()
	server := httptest.NewServer(vendorproxy.New(vendors, routes))
	t.Cleanup(server.Close)
	environ, err := vendorproxy.Environ(server.URL, t.TempDir())
	require.NoError(t, err)
	return environ
}
