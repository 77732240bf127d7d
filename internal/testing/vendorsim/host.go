package vendorsim

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Simulates reports whether a host is one of the simulated vendors.
func (s *Sim) Simulates(host string) bool {
	if strings.HasSuffix(host, ".kensho.com") || host == "kensho.okta.com" || sitecoreHosts[host] || host == AcmeLoginHost || host == AcmeAPIHost {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if isGitHub(host) && len(s.gitHubApps) > 0 || s.rotating.hosts[host] != nil {
		return true
	}
	if isFederated(host) && s.hasFederation() {
		return true
	}
	for _, server := range s.oauth.servers {
		if slices.ContainsFunc([]string{server.Issuer, server.TokenURL, server.RevocationURL}, func(address string) bool {
			parsed, err := url.Parse(address)
			return err == nil && parsed.Host == host
		}) {
			return true
		}
	}
	return false
}

// URL returns the URL at which a Sim that is served at base simulates a vendor's URL.
func URL(base, vendor string) string {
	return strings.TrimRight(base, "/") + "/" + strings.TrimPrefix(vendor, "https://")
}

// locate returns the vendor's host and path that a request is for.
func locate(r *http.Request) (host, path string) {
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil || !net.ParseIP(name).IsLoopback() {
		return r.Host, r.URL.Path
	}
	host, path, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if host == wellKnown {
		// A well-known path precedes the path of the issuer (RFC 8414 §3.1).
		suffix, issuer, _ := strings.Cut(path, "/")
		host, path, _ = strings.Cut(issuer, "/")
		path = strings.TrimSuffix(wellKnown+"/"+suffix+"/"+path, "/")
	}
	return host, "/" + path
}

// callerURL returns the URL that the caller used.
func callerURL(r *http.Request) string {
	host, path := locate(r)
	return asSeen(r, "https://"+host+path)
}

// asSeen returns a vendor's URL as the sender of the request has to write it.
func asSeen(r *http.Request, vendor string) string {
	if host, _ := locate(r); host == r.Host {
		return vendor
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return URL(scheme+r.Host, vendor)
}
