package vendorsim

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

const (
	entraHost = entraLogin

	// EntraAudience is the audience that Entra recommends for federated credentials.
	EntraAudience = "api://AzureADTokenExchange"
)

// An EntraApp is an application of Microsoft Entra ID with federated credentials.
type EntraApp struct {
	Tenant, ClientID string

	// Trust and Subject are those of the federated credential.
	Trust   Trust
	Subject string
}

// AddEntraApp adds an application.
func (s *Sim) AddEntraApp(app EntraApp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entraApps[app.Tenant+"/"+app.ClientID] = app
}

// entraFederated is POST /<tenant>/oauth2/v2.0/token.
func (s *Sim) entraFederated(tenant string, r *http.Request) reply {
	if wrong := notPost(r); wrong != nil {
		return *wrong
	}
	if r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.Header.Get("Authorization") != "" {
		return violation(http.StatusBadRequest, "must be a form, whose client authenticates in it")
	}
	form, problem := singleParameters(r)
	if problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	expected := []string{"client_assertion", "client_assertion_type", "client_id", "grant_type", "scope"}
	switch names := slices.Sorted(maps.Keys(form)); {
	case !slices.Equal(names, expected):
		return violation(http.StatusBadRequest, "the parameters are not those of the request: "+strings.Join(names, ", "))
	case form["grant_type"] != "client_credentials" || form["client_assertion_type"] != assertionType:
		return violation(http.StatusBadRequest, "grant_type or client_assertion_type is not documented")
	case !strings.HasSuffix(form["scope"], "/.default"):
		return violation(http.StatusBadRequest, "scope must end with /.default")
	}
	app, isKnown := s.entraApps[tenant+"/"+form["client_id"]]
	if !isKnown {
		return entraRefusal(http.StatusBadRequest, "unauthorized_client", "AADSTS700016: the application was not found")
	}
	subject, refused := s.federated(form["client_assertion"], []Trust{app.Trust}, "RS256")
	if refused != nil {
		return refused.reply(http.StatusUnauthorized, entraError("invalid_client", "AADSTS700211: "+refused.reason))
	}
	if subject != app.Subject {
		return entraRefusal(http.StatusUnauthorized, "invalid_client", "AADSTS700213: no federated identity record with the subject '"+subject+"'")
	}
	s.next.Subject = subject
	lifetime := s.lifetime()
	return ok(map[string]any{"token_type": "Bearer", "expires_in": int(lifetime.Seconds()), "access_token": s.issue(s.conduct.JWT, s.now().Add(lifetime))})
}

func entraRefusal(status int, code, description string) reply {
	return reply{status: status, body: entraError(code, description)}
}

func entraError(code, description string) map[string]any {
	return map[string]any{"error": code, "error_description": description}
}
