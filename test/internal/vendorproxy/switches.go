package vendorproxy

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Switches take simulated vendors down and up again. As a handler, they serve POST /<vendor>/down
// and POST /<vendor>/up, where <vendor> is kensho, sitecore, or oauth2 for all others; and POST /consent
// with the fields url and person. They are safe for concurrent use.
type Switches struct {
	// Consent plays a person who consents at an authorization URL, and returns the URL to which the vendor
	// sends the browser; nil if nobody can.
	Consent func(authorizationURL, person string) string

	mu   sync.Mutex
	down map[string]bool // by vendor
}

// NewSwitches returns switches of vendors that are up.
func NewSwitches() *Switches {
	return &Switches{down: map[string]bool{"kensho": false, "sitecore": false, "oauth2": false}}
}

// Fault is a vendorsim.Conduct.Fault, with which a vendor that is down returns 503.
func (s *Switches) Fault(r *http.Request) http.HandlerFunc {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down[vendorAt(r.Host)] {
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

func (s *Switches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{vendor}/{state}", s.turn)
	mux.HandleFunc("POST /consent", s.consent)
	mux.ServeHTTP(w, r)
}

// consent writes the URL that the address bar of the person's browser has in the end.
func (s *Switches) consent(w http.ResponseWriter, r *http.Request) {
	to := ""
	if s.Consent != nil {
		to = s.Consent(r.FormValue("url"), r.FormValue("person"))
	}
	if to == "" {
		http.Error(w, "the vendor refuses the authorization URL", http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprintln(w, to)
}

// turn takes a vendor down or up.
func (s *Switches) turn(w http.ResponseWriter, r *http.Request) {
	vendor, state := r.PathValue("vendor"), r.PathValue("state")
	s.mu.Lock()
	defer s.mu.Unlock()
	_, isKnown := s.down[vendor]
	switch {
	case !isKnown:
		http.Error(w, fmt.Sprintf("unknown vendor %q (one of: %s)", vendor, strings.Join(slices.Sorted(maps.Keys(s.down)), ", ")), http.StatusNotFound)
	case state == "down":
		s.down[vendor] = true
		_, _ = fmt.Fprintf(w, "%s is down: it answers every request with 503\n", vendor)
	case state == "up":
		s.down[vendor] = false
		_, _ = fmt.Fprintf(w, "%s is up\n", vendor)
	default:
		http.Error(w, fmt.Sprintf("unknown state %q (one of: down, up)", state), http.StatusNotFound)
	}
}
