package vendorsim

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// akeneoHost is the suffix of the hosts of Akeneo's cloud.
const akeneoHost = ".cloud.akeneo.com"

// akeneoRefreshLifetime is the lifetime of a refresh token of Akeneo.
const akeneoRefreshLifetime = 14 * 24 * time.Hour

// An AkeneoConnection is a connection of Akeneo PIM, with the password of its user.
type AkeneoConnection struct {
	ClientID, ClientSecret string
	Username, Password     string
}

type akeneo struct {
	connections   map[string]AkeneoConnection // by client ID
	refreshTokens map[string]akeneoRefreshToken
}

type akeneoRefreshToken struct {
	clientID string
	expiry   time.Time
}

// AddAkeneoConnection adds a connection, at all hosts of Akeneo.
func (s *Sim) AddAkeneoConnection(c AkeneoConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secret(c.ClientSecret)
	s.secret(c.Password)
	s.akeneo.connections[c.ClientID] = c
}

// akeneoToken is POST /api/oauth/v1/token, which takes JSON and a form. A refresh token can be used once,
// and the password again at any time.
func (s *Sim) akeneoToken(r *http.Request) reply {
	if wrong := notPost(r); wrong != nil {
		return *wrong
	}
	id, secret, hasClient := r.BasicAuth()
	if !hasClient {
		return violation(http.StatusUnauthorized, "the client must authenticate with HTTP Basic")
	}
	parameters, problem := singleParameters(r)
	if problem != "" {
		return violation(http.StatusUnprocessableEntity, problem)
	}
	needed := map[string][]string{
		"password":      {"grant_type", "password", "username"},
		"refresh_token": {"grant_type", "refresh_token"},
	}[parameters["grant_type"]]
	if names := slices.Sorted(maps.Keys(parameters)); needed == nil || !slices.Equal(names, needed) {
		return violation(http.StatusUnprocessableEntity, "the parameters are not those of the grant: "+strings.Join(names, ", "))
	}
	connection := s.akeneo.connections[id]
	if connection.ClientID == "" || connection.ClientSecret != secret {
		return refuse(http.StatusUnprocessableEntity, "invalid_client")
	}
	if parameters["grant_type"] == "password" {
		if parameters["username"] != connection.Username || parameters["password"] != connection.Password {
			return refuse(http.StatusUnprocessableEntity, "invalid_grant")
		}
		return s.akeneoAnswer(id)
	}
	used := s.akeneo.refreshTokens[parameters["refresh_token"]]
	if used.clientID != id || !s.now().Before(used.expiry) {
		return refuse(http.StatusUnprocessableEntity, "invalid_grant")
	}
	delete(s.akeneo.refreshTokens, parameters["refresh_token"])
	return s.akeneoAnswer(id)
}

func (s *Sim) akeneoAnswer(clientID string) reply {
	refresh := s.newRefreshToken()
	s.akeneo.refreshTokens[refresh] = akeneoRefreshToken{clientID: clientID, expiry: s.now().Add(akeneoRefreshLifetime)}
	lifetime := s.lifetime()
	return ok(map[string]any{
		"access_token": s.issue(false, s.now().Add(lifetime)), "expires_in": int(lifetime.Seconds()),
		"token_type": "bearer", "scope": nil, "refresh_token": refresh,
	})
}

// singleParameters returns the parameters of a form or a JSON object, each of which is a text that is
// given once.
func singleParameters(r *http.Request) (parameters map[string]string, problem string) {
	switch r.Header.Get("Content-Type") {
	case "application/json":
		if err := json.NewDecoder(r.Body).Decode(&parameters); err != nil {
			return nil, "the body is not an object of texts: " + err.Error()
		}
	case "application/x-www-form-urlencoded":
		if err := r.ParseForm(); err != nil {
			return nil, "the body is not a form"
		}
		parameters = map[string]string{}
		for name, values := range r.PostForm {
			if len(values) != 1 {
				return nil, name + " must be given once"
			}
			parameters[name] = values[0]
		}
	default:
		return nil, "Content-Type must be that of JSON or of a form"
	}
	for name, value := range parameters {
		if value == "" {
			return nil, name + " must not be empty"
		}
	}
	return parameters, ""
}
