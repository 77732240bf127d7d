package vendorsim

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// sitecoreHosts are the hosts of production, of staging and of a region.
var sitecoreHosts = map[string]bool{
	"api.rfksrv.com":            true,
	"api-staging.rfksrv.com":    true,
	"discover.sitecorecloud.io": true,
}

// sitecoreScopes are the scopes of Search and of its predecessor Discover.
var sitecoreScopes = map[string]bool{"discover": true, "event": true, "search-rec": true, "feed": true, "services": true}

const (
	defaultAccessExpiry  = 86_400_000  // ms, 1 day
	defaultRefreshExpiry = 604_800_000 // ms, 7 days
)

type sitecore struct {
	apiKeys map[string]bool
	pairs   map[string]pair // by refresh token
}

type pair struct {
	access time.Duration // lifetime of each access token
	expiry time.Time     // expiry of the refresh token
}

func newSitecore() sitecore {
	return sitecore{apiKeys: map[string]bool{}, pairs: map[string]pair{}}
}

// AddAPIKey adds an API key of Sitecore.
func (s *Sim) AddAPIKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sitecore.apiKeys[s.secret(key)] = true
}

// AddPair adds a refresh token of Sitecore that was minted elsewhere. access is the lifetime of
// its access tokens, and refresh its own.
func (s *Sim) AddPair(token string, access, refresh time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sitecore.pairs[s.secret(token)] = pair{access: access, expiry: s.now().Add(refresh)}
}

func (s *Sim) sitecoreToken(r *http.Request) reply {
	if r.Header.Get("Content-Type") != "application/json" {
		return violation(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
	}
	if r.URL.RawQuery != "" {
		return violation(http.StatusBadRequest, "must have no query")
	}
	switch r.Method {
	case http.MethodPost:
		return s.sitecoreMint(r)
	case http.MethodPut:
		return s.sitecoreRefresh(r)
	}
	return violation(http.StatusMethodNotAllowed, "must be a POST or a PUT")
}

func (s *Sim) sitecoreMint(r *http.Request) reply {
	var body struct {
		Scope         []string `json:"scope"`
		AccessExpiry  *int64   `json:"accessExpiry"`
		RefreshExpiry *int64   `json:"refreshExpiry"`
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return violation(http.StatusBadRequest, "the body is not the documented one: "+err.Error())
	}
	if len(body.Scope) == 0 {
		return violation(http.StatusBadRequest, "scope is required")
	}
	for _, scope := range body.Scope {
		if !sitecoreScopes[scope] {
			return refuse(http.StatusBadRequest, "unknown scope "+scope)
		}
	}
	access, refresh := int64(defaultAccessExpiry), int64(defaultRefreshExpiry)
	for given, expiry := range map[*int64]*int64{body.AccessExpiry: &access, body.RefreshExpiry: &refresh} {
		if given == nil {
			continue
		}
		if *given <= 0 {
			return violation(http.StatusBadRequest, "an expiry must be above zero")
		}
		*expiry = *given
	}
	for _, header := range []string{"Authorization", "Refresh-Token"} {
		if r.Header.Get(header) != "" {
			return violation(http.StatusBadRequest, header+" is not for an API key")
		}
	}
	if !s.sitecore.apiKeys[r.Header.Get("X-Api-Key")] {
		return refuse(http.StatusUnauthorized, "the API key is not accepted")
	}

	token := s.newRefreshToken()
	lifetime := time.Duration(access) * time.Millisecond
	s.sitecore.pairs[token] = pair{access: lifetime, expiry: s.now().Add(time.Duration(refresh) * time.Millisecond)}
	return ok(map[string]any{
		"accessToken":        s.issue(false, s.now().Add(lifetime)),
		"refreshToken":       token,
		"accessTokenExpiry":  access,
		"refreshTokenExpiry": refresh,
	})
}

func (s *Sim) sitecoreRefresh(r *http.Request) reply {
	token := r.Header.Get("Refresh-Token")
	bearer, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case token == "" || !isBearer || bearer != token:
		return violation(http.StatusBadRequest, "must have the token both as refresh-token and as Authorization: Bearer")
	case r.Header.Get("X-Api-Key") != "":
		return violation(http.StatusBadRequest, "x-api-key is not for a refresh token")
	case r.ContentLength > 0:
		return violation(http.StatusBadRequest, "must have no body")
	}
	known, found := s.sitecore.pairs[token]
	if !found || !s.now().Before(known.expiry) {
		return refuse(http.StatusUnauthorized, "the refresh token is not accepted")
	}
	return ok(map[string]any{"accessToken": s.issue(false, s.now().Add(known.access))})
}
