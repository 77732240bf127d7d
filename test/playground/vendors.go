package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The credentials that the simulated vendors accept.
const (
	kenshoRefreshToken = "playground-kensho-refresh-token"
	sitecoreAPIKey     = "01-playground-sitecore-api-key"
	oauthClientID      = "playground-oauth2-client"
	oauthClientSecret  = "playground-oauth2-secret"
)

// vendors are the simulated vendors, each of which can be down.
type vendors struct {
	sim *vendorsim.Sim

	mu   sync.Mutex
	down map[string]bool // by name
}

// newVendors returns vendors that accept the credentials above. Kensho's tokens of a refresh token
// expire 50 minutes from now and then every hour, and not on the full hour, which may be near.
func newVendors(now time.Time) *vendors {
	v := &vendors{sim: vendorsim.New(), down: map[string]bool{"kensho": false, "sitecore": false, "oauth2": false}}
	v.sim.AddRefreshToken("link-streaming", kenshoRefreshToken)
	v.sim.AddAPIKey(sitecoreAPIKey)
	v.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: oauthClientID, Secret: oauthClientSecret, Scopes: []string{"invoices.read", "invoices.write"},
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	expiry := now.Add(50 * time.Minute).Truncate(time.Second)
	v.sim.Behave(vendorsim.Conduct{HourOffset: expiry.Sub(expiry.Truncate(time.Hour)), Fault: v.fault})
	return v
}

// fault makes a vendor that is down answer with 503.
func (v *vendors) fault(r *http.Request) http.HandlerFunc {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.down[vendorAt(r.Host)] {
		return vendorsim.Answer(http.StatusServiceUnavailable, "")
	}
	return nil
}

// vendorAt returns the name of the vendor that has a host.
func vendorAt(host string) string {
	switch {
	case strings.HasSuffix(host, ".kensho.com"), host == "kensho.okta.com":
		return "kensho"
	case strings.HasSuffix(host, ".rfksrv.com"), host == "discover.sitecorecloud.io":
		return "sitecore"
	}
	return "oauth2"
}

// control returns the handler of POST /<vendor>/down and POST /<vendor>/up.
func (v *vendors) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{vendor}/{state}", func(w http.ResponseWriter, r *http.Request) {
		vendor, state := r.PathValue("vendor"), r.PathValue("state")
		v.mu.Lock()
		defer v.mu.Unlock()
		_, isKnown := v.down[vendor]
		switch {
		case !isKnown:
			http.Error(w, fmt.Sprintf("unknown vendor %q (one of: %s)", vendor, strings.Join(slices.Sorted(maps.Keys(v.down)), ", ")), http.StatusNotFound)
		case state == "down":
			v.down[vendor] = true
			_, _ = fmt.Fprintf(w, "%s is down: it answers every request with 503\n", vendor)
		case state == "up":
			v.down[vendor] = false
			_, _ = fmt.Fprintf(w, "%s is up\n", vendor)
		default:
			http.Error(w, fmt.Sprintf("unknown state %q (one of: down, up)", state), http.StatusNotFound)
		}
	})
	return mux
}
