// Package vendorproxy lets a server reach the simulated vendors at the URLs of the real ones.
package vendorproxy

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/elazarl/goproxy"
)

// New returns a proxy that has vendors answer for every host, with a certificate that a server with
// the environment of Environ trusts. routes are the addresses of other hosts, by host and port.
func New(vendors http.Handler, routes map[string]string) *goproxy.ProxyHttpServer {
	proxy := goproxy.NewProxyHttpServer()
	for host, address := range routes {
		proxy.OnRequest(goproxy.DstHostIs(host)).HandleConnectFunc(func(string, *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
			return goproxy.OkConnect, address
		})
	}
	proxy.OnRequest().HandleConnect(goproxy.AlwaysMitm)
	proxy.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		recorder := httptest.NewRecorder()
		vendors.ServeHTTP(recorder, r)
		return r, recorder.Result()
	})
	return proxy
}

// Environ returns the environment of a server whose requests to other hosts go through the proxy at
// a URL. Requests to loopback addresses do not. Environ writes the certificate of the proxy's
// authority to the directory dir, where the server reads it.
func Environ(proxy, dir string) ([]string, error) {
	authority := filepath.Join(dir, "authority.pem")
	return []string{
		"HTTPS_PROXY=" + proxy, "HTTP_PROXY=" + proxy, "NO_PROXY=", "no_proxy=",
		"SSL_CERT_FILE=" + authority,
	}, os.WriteFile(authority, goproxy.CA_CERT, 0o600)
}
