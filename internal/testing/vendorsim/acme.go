package vendorsim

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// The hosts of Acme, the vendor of docs/own-vendor.md, in its European region. It is not an OAuth 2.0
// server. Each region has two letters.
const (
	AcmeLoginHost = "eu" + acmeLoginHost
	AcmeAPIHost   = "eu.api.acme.example"

	acmeLoginHost = ".login.acme.example"
)

// maxAcmeLifetime is the longest lifetime of a token of Acme, in seconds.
const maxAcmeLifetime = 3600

// acmeScopes are the scopes of Acme.
var acmeScopes = []string{"orders.read", "orders.write"}

type acme struct {
	keys   map[string]bool
	apiURL string
}

// AddAcmeKey adds an API key of Acme. apiURL is where Acme's answers say that its API is.
func (s *Sim) AddAcmeKey(key, apiURL string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acme.keys[s.secret(key)] = true
	s.acme.apiURL = apiURL
}

func acmeRefusal(code, message string) reply {
	return reply{status: http.StatusUnauthorized, body: map[string]any{"error": map[string]string{"code": code, "message": message}}}
}

// acmeToken is POST /v1/tokens.
func (s *Sim) acmeToken(r *http.Request) reply {
	if wrong := notPost(r); wrong != nil {
		return *wrong
	}
	switch {
	case r.Header.Get("Content-Type") != "application/json":
		return violation(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
	case r.Header.Get("Authorization") != "":
		return violation(http.StatusBadRequest, "the API key is in X-Api-Key, and Authorization must not be sent")
	case r.Header.Get("X-Api-Key") == "":
		return violation(http.StatusBadRequest, "X-Api-Key is required")
	}
	var body struct {
		Lifetime *int64   `json:"lifetime"`
		Scopes   []string `json:"scopes"`
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return violation(http.StatusBadRequest, "the body is not the documented one: "+err.Error())
	}
	if body.Lifetime == nil || *body.Lifetime < 60 || *body.Lifetime > maxAcmeLifetime {
		return violation(http.StatusBadRequest, "lifetime is required, from 60 to 3600")
	}
	for _, scope := range body.Scopes {
		if !slices.Contains(acmeScopes, scope) {
			return refuse(http.StatusBadRequest, "unknown scope "+scope)
		}
	}
	if !s.acme.keys[r.Header.Get("X-Api-Key")] {
		return acmeRefusal("unknown_key", "the API key is not accepted")
	}
	lifetime := cmp.Or(s.conduct.Lifetime, time.Duration(*body.Lifetime)*time.Second)
	expiry := s.now().Add(lifetime).Truncate(time.Second)
	return ok(map[string]any{"data": map[string]any{
		"token": s.issue(false, expiry), "expires_at": expiry.Unix(), "api_url": s.acme.apiURL,
	}})
}

// acmeOrders is GET /v1/orders of the API.
func (s *Sim) acmeOrders(r *http.Request) reply {
	switch token := r.Header.Get("X-Acme-Token"); {
	case r.Method != http.MethodGet:
		return violation(http.StatusMethodNotAllowed, "must be a GET")
	case token == "":
		return violation(http.StatusUnauthorized, "X-Acme-Token is required")
	case !s.now().Before(s.issued[token]):
		return acmeRefusal("unknown_token", "the token is not accepted")
	}
	return ok(map[string]any{"orders": []string{"A-1", "A-2"}})
}
