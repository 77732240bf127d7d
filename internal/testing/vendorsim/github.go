package vendorsim

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// githubHost is the suffix of the hosts of GitHub's API with data residency.
const githubHost = ".ghe.com"

const (
	githubTokens = "/app/installations/"
	githubRevoke = "/installation/token"

	// maxGitHubAssertion is the longest time to the expiry of an app's JWT.
	maxGitHubAssertion = 10 * time.Minute
)

// A GitHubApp is a GitHub App with one installation.
type GitHubApp struct {
	ClientID       string
	Key            *rsa.PublicKey
	InstallationID string

	// Repositories and Permissions are those of the installation. IgnoreNarrowing grants all of them.
	Repositories    []string
	Permissions     map[string]string
	IgnoreNarrowing bool
}

// AddGitHubApp adds an app, at all hosts of GitHub's API.
func (s *Sim) AddGitHubApp(app GitHubApp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gitHubApps[app.ClientID] = app
}

func isGitHub(host string) bool {
	return host == "api.github.com" || strings.HasPrefix(host, "api.") && strings.HasSuffix(host, githubHost)
}

// gitHub is POST /app/installations/<id>/access_tokens and DELETE /installation/token.
func (s *Sim) gitHub(path string, r *http.Request) reply {
	bearer, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	id, isToken := strings.CutSuffix(strings.TrimPrefix(path, githubTokens), "/access_tokens")
	switch {
	case !isBearer:
		return violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	case r.URL.RawQuery != "":
		return violation(http.StatusBadRequest, "must have no query")
	case path == githubRevoke && r.Method == http.MethodDelete:
		if !s.now().Before(s.issued[bearer]) {
			return reply{status: http.StatusUnauthorized, body: map[string]string{"message": "Bad credentials"}}
		}
		s.issued[bearer] = time.Time{}
		return reply{status: http.StatusNoContent}
	case !isToken || !strings.HasPrefix(path, githubTokens):
		return violation(http.StatusNotFound, "unknown URL")
	case r.Method != http.MethodPost:
		return violation(http.StatusMethodNotAllowed, "must be a POST")
	}
	s.secret(bearer)
	asked, problem := gitHubBody(r)
	if problem != "" {
		return violation(http.StatusUnprocessableEntity, problem)
	}
	app, err := s.gitHubApp(bearer)
	switch {
	case errors.Is(err, errUnknownClient), errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUsedBeforeIssued), errors.Is(err, jwt.ErrTokenExpired):
		return reply{status: http.StatusUnauthorized, body: map[string]string{"message": "A JSON web token could not be decoded"}}
	case err != nil:
		return violation(http.StatusUnauthorized, err.Error())
	case app.InstallationID != id:
		return reply{status: http.StatusNotFound, body: map[string]string{"message": "Not Found"}}
	}
	expiry := s.now().Add(s.lifetime()).Truncate(time.Second)
	granted := map[string]any{"expires_at": expiry.UTC().Format(time.RFC3339), "repository_selection": "all"}
	if problem := app.grant(asked, granted); problem != "" {
		return reply{status: http.StatusUnprocessableEntity, body: map[string]string{"message": problem}}
	}
	s.next = About{Repositories: asked.Repositories}
	granted["token"] = s.issue(false, expiry)
	return reply{status: http.StatusCreated, body: granted}
}

// grant adds to an answer what the app gets of what it asks for.
func (a GitHubApp) grant(asked gitHubRequest, answer map[string]any) (problem string) {
	permissions := map[string]string{"metadata": "read"} // always
	if a.Permissions == nil {
		a.Permissions = map[string]string{"contents": "read"}
	}
	if len(asked.Permissions) == 0 || a.IgnoreNarrowing {
		asked.Permissions = a.Permissions
	}
	for name, level := range asked.Permissions {
		if has := a.Permissions[name]; has != level && (has != "write" || level != "read") {
			return "The permissions requested are not granted to this installation."
		}
		permissions[name] = level
	}
	answer["permissions"] = permissions
	if len(asked.Repositories) == 0 || a.IgnoreNarrowing {
		return ""
	}
	var repositories []map[string]any
	for i, name := range asked.Repositories {
		if a.Repositories != nil && !slices.Contains(a.Repositories, name) {
			return "There is at least one repository that does not exist or is not accessible to the parent installation."
		}
		repositories = append(repositories, map[string]any{"id": i + 1, "name": name, "full_name": "acme/" + name})
	}
	answer["repositories"], answer["repository_selection"] = repositories, "selected"
	return ""
}

// A gitHubRequest is the body of a token request.
type gitHubRequest struct {
	Repositories []string          `json:"repositories"`
	Permissions  map[string]string `json:"permissions"`
}

// gitHubBody checks the optional JSON body of a token request.
func gitHubBody(r *http.Request) (body gitHubRequest, problem string) {
	if r.ContentLength == 0 {
		return body, ""
	}
	if r.Header.Get("Content-Type") != "application/json" {
		return body, "Content-Type must be application/json"
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return body, "the body is not the documented one: " + err.Error()
	}
	return body, ""
}

// gitHubApp returns the app that signed a JWT.
func (s *Sim) gitHubApp(assertion string) (GitHubApp, error) {
	var (
		app    GitHubApp
		claims jwt.RegisteredClaims
	)
	_, err := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(s.now)).
		ParseWithClaims(assertion, &claims, func(*jwt.Token) (any, error) {
			if app = s.gitHubApps[claims.Issuer]; app.Key == nil {
				return nil, errUnknownClient
			}
			return app.Key, nil
		})
	switch {
	case err != nil:
		return app, err
	case claims.IssuedAt == nil:
		return app, errors.New("iat is missing")
	case claims.ExpiresAt.Sub(s.now()) > maxGitHubAssertion:
		return app, errors.New("exp must be at most 10 minutes from now")
	}
	return app, nil
}
