//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/elazarl/goproxy"
	"github.com/stretchr/testify/require"
)

// behindProxy returns the environment of a server whose requests to other hosts reach the simulated
// vendors. They go through a proxy that answers for every host, with a certificate that the server
// trusts. A request to a host of no vendor is a violation. Requests to loopback addresses do not
// use the proxy.
func behindProxy(t *testing.T, vendors http.Handler) []string {
	t.Helper()
	proxy := goproxy.NewProxyHttpServer()
	proxy.OnRequest().HandleConnect(goproxy.AlwaysMitm)
	proxy.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		recorder := httptest.NewRecorder()
		vendors.ServeHTTP(recorder, r)
		return r, recorder.Result()
	})
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	authority := filepath.Join(t.TempDir(), "authority.pem")
	require.NoError(t, os.WriteFile(authority, goproxy.CA_CERT, 0o600))
	return []string{
		"HTTPS_PROXY=" + server.URL, "HTTP_PROXY=" + server.URL, "NO_PROXY=", "no_proxy=",
		"SSL_CERT_FILE=" + authority,
	}
}
