package customer

import (
	"net/http"
	"net/http/httptest"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// addAcme opens an account at Acme, the internal token service of docs/own-vendor.md. Its API is on a
// loopback port, so that the commands of the page reach it.
func (c *Customer) addAcme() {
	const key = "api-key-of-acme-0123456789"
	c.acmeAPI = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = vendorsim.AcmeAPIHost
		c.sim.ServeHTTP(w, r)
	}))
	c.sim.AddAcmeKey(key, c.acmeAPI.URL)
	c.variables["ACME_API_KEY"] = key
}
