package vendorsim

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// dowJonesHosts are the hosts of the identity service of Dow Jones.
var dowJonesHosts = map[string]bool{"accounts.dowjones.com": true, "eu.accounts.dowjones.com": true}

// A DowJonesAccount is a service account of Dow Jones, with the client that may use it.
type DowJonesAccount struct{ ClientID, Username, Password string }

type dowJones struct {
	accounts map[string]DowJonesAccount // by user name
	sessions map[string]dowJonesSession // by ID token of the sign-in
}

// dowJonesSession is a sign-in, which yields access tokens for a minute.
type dowJonesSession struct {
	clientID, accessToken string
	expiry                time.Time
}

// AddDowJonesAccount adds a service account.
func (s *Sim) AddDowJonesAccount(a DowJonesAccount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secret(a.Password)
	s.dowJones.accounts[a.Username] = a
}

// dowJonesParameters are the parameters of each request, by its grant type.
var dowJonesParameters = map[string]map[string]string{
	"password": {
		"grant_type": "password", "connection": "service-account", "scope": "openid service_account_id",
		"client_id": "", "username": "", "password": "",
	},
	JWTBearerGrant: {
		"grant_type": JWTBearerGrant, "connection": "service-account", "scope": "openid pib",
		"client_id": "", "access_token": "", "assertion": "",
	},
}

// dowJonesToken is POST /oauth2/v1/token: first a sign-in, whose tokens the second request exchanges for
// the access token.
func (s *Sim) dowJonesToken(r *http.Request) reply {
	if wrong := notPost(r); wrong != nil {
		return *wrong
	}
	switch {
	case r.Header.Get("Authorization") != "":
		return violation(http.StatusBadRequest, "the client has no authentication of its own")
	case r.Header.Get("Content-Type") != "application/x-www-form-urlencoded":
		return violation(http.StatusUnsupportedMediaType, "Content-Type must be that of a form")
	}
	parameters, problem := singleParameters(r)
	if problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	documented := dowJonesParameters[parameters["grant_type"]]
	if names := slices.Sorted(maps.Keys(parameters)); !slices.Equal(names, slices.Sorted(maps.Keys(documented))) {
		return violation(http.StatusBadRequest, "the parameters are not those of the request: "+strings.Join(names, ", "))
	}
	for name, value := range documented {
		if value != "" && parameters[name] != value {
			return violation(http.StatusBadRequest, name+" must be "+value)
		}
	}
	if parameters["grant_type"] == "password" {
		return s.dowJonesSignIn(parameters)
	}
	session := s.dowJones.sessions[parameters["assertion"]]
	switch {
	case session.clientID != parameters["client_id"] || session.accessToken != parameters["access_token"]:
		return refuse(http.StatusForbidden, "invalid_grant")
	case !s.now().Before(session.expiry):
		return refuse(http.StatusForbidden, "invalid_grant")
	}
	delete(s.dowJones.sessions, parameters["assertion"])
	lifetime := s.lifetime()
	return ok(map[string]any{
		"access_token": s.issue(s.conduct.JWT, s.now().Add(lifetime)), "expires_in": int(lifetime.Seconds()), "token_type": "Bearer",
	})
}

func (s *Sim) dowJonesSignIn(parameters map[string]string) reply {
	account := s.dowJones.accounts[parameters["username"]]
	if account.ClientID != parameters["client_id"] || account.Password != parameters["password"] {
		return refuse(http.StatusForbidden, "invalid_grant")
	}
	idToken, accessToken := s.secret(s.opaque("id-")), s.secret(s.opaque("authn-"))
	s.dowJones.sessions[idToken] = dowJonesSession{clientID: account.ClientID, accessToken: accessToken, expiry: s.now().Add(time.Minute)}
	return ok(map[string]any{"id_token": idToken, "access_token": accessToken, "token_type": "Bearer", "expires_in": 60})
}
