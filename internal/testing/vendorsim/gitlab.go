package vendorsim

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	gitLabHost    = "gitlab.com"
	gitLabAPI     = "/api/v4/"
	gitLabSelf    = "personal_access_tokens/self"
	gitLabProject = "acme/site"
	gitLabGroup   = "acme"

	maxGitLabAge = 365 * 24 * time.Hour
)

// The personal access tokens of GitLab are of service accounts that are Maintainer of a project and Owner of a group.

func (s *Sim) addGitLab(a *account) map[string]any {
	h := s.first(a, newGitLabToken(s, a, s.now().AddDate(0, 6, 0)))
	s.rotating.hosts[gitLabHost] = s.gitLab
	return map[string]any{
		"host": gitLabHost, "personal_access_token": h.text, "project": gitLabProject, "access_level": 30, "scope": []string{"read_api"},
	}
}

// newGitLabToken returns a token that expires when a date begins.
func newGitLabToken(s *Sim, a *account, date time.Time) *heldSecret {
	return &heldSecret{
		id: fmt.Sprintf("%s%d", a.number("token")[:6], len(a.secrets)), name: a.name, text: s.secret(s.opaque("glpat-")), scope: []string{"api"},
		expiry: date.UTC().Truncate(24 * time.Hour),
	}
}

func gitLabRefusal(status int, message string) reply {
	return reply{status: status, body: map[string]string{"message": message}}
}

// gitLab is an instance of GitLab (https://docs.gitlab.com/api/personal_access_tokens/).
func (s *Sim) gitLab(path string, r *http.Request) reply {
	rest, isAPI := strings.CutPrefix(path, gitLabAPI)
	var rotate gitLabRotation
	var create gitLabToken
	method, body := r.Method, any(nil)
	resource, isCreation := strings.CutSuffix(rest, "/access_tokens")
	switch {
	case !isAPI:
		return violation(http.StatusNotFound, "unknown URL")
	case rest == gitLabSelf && (method == http.MethodGet || method == http.MethodDelete):
	case rest == gitLabSelf+"/rotate":
		method, body = http.MethodPost, &rotate
	case isCreation && isEscaped(r, resource):
		method, body = http.MethodPost, &create
	default:
		return violation(http.StatusNotFound, "unknown URL")
	}
	if wrong := wrongRequest(r, method, []string{"Authorization", "PRIVATE-TOKEN"}, nil, body); wrong != nil {
		return *wrong
	}
	token := r.Header.Get("PRIVATE-TOKEN")
	if (token == "") == (bearer(r) == "") {
		return violation(http.StatusUnauthorized, "must have PRIVATE-TOKEN or a Bearer")
	}
	token += bearer(r)
	a, h := s.gitLabToken(token)
	isCreated := h == nil && s.now().Before(s.issued[token]) && s.rotating.tokens[token].audience == gitLabHost
	switch {
	case isCreated && rest == gitLabSelf && method == http.MethodDelete:
		s.issued[token] = time.Time{}
		return reply{status: http.StatusNoContent}
	case isCreated && rest == gitLabSelf:
		return ok(map[string]any{"active": true, "revoked": false})
	case isCreated:
		return gitLabRefusal(http.StatusForbidden, "403 Forbidden")
	case h == nil || !s.accepts(h):
		if h != nil && !h.isActive() && body == &rotate {
			a.revokeFamily(s) // the second use of a token may be a theft
		}
		return gitLabRefusal(http.StatusUnauthorized, "401 Unauthorized")
	case body == &rotate:
		return s.gitLabRotate(a, h, rotate)
	case body == &create:
		return s.gitLabCreate(a, resource, create)
	case method == http.MethodDelete:
		s.remove(h)
		return reply{status: http.StatusNoContent}
	}
	return ok(shownGitLab(h))
}

// isEscaped reports whether the path of a project or a group is one segment of the URL.
func isEscaped(r *http.Request, resource string) bool {
	kind, name, _ := strings.Cut(resource, "/")
	if kind != "projects" && kind != "groups" || name == "" {
		return false
	}
	return strings.HasSuffix(r.URL.EscapedPath(), kind+"/"+strings.ReplaceAll(name, "/", "%2F")+"/access_tokens")
}

// gitLabToken returns the account and the personal access token with a value, which may be a revoked one.
func (s *Sim) gitLabToken(value string) (*account, *heldSecret) {
	for _, a := range s.rotating.accounts {
		if a.kind != "gitlab-token" {
			continue
		}
		if h := a.latest(func(h *heldSecret) bool { return h.text == value }); h != nil {
			return a, h
		}
	}
	return nil, nil
}

// revokeFamily revokes all tokens that a rotation made of the account's first one.
func (a *account) revokeFamily(s *Sim) {
	for _, h := range a.stored() {
		s.remove(h)
	}
}

type gitLabRotation struct {
	ExpiresAt string `json:"expires_at"`
}

// gitLabRotate replaces a token, which is revoked at once.
func (s *Sim) gitLabRotate(a *account, h *heldSecret, given gitLabRotation) reply {
	date := s.now().AddDate(0, 0, 7)
	if given.ExpiresAt != "" {
		var refused *reply
		if date, refused = s.gitLabDate(given.ExpiresAt); refused != nil {
			return *refused
		}
	}
	if !slices.Contains(h.scope, "api") && !slices.Contains(h.scope, "self_rotate") {
		return gitLabRefusal(http.StatusForbidden, "insufficient_scope")
	}
	next := newGitLabToken(s, a, date)
	s.remove(h)
	shown := shownGitLab(a.hold(next, s.now()))
	shown["token"] = next.text
	return ok(shown)
}

// gitLabDate checks when a token shall expire.
func (s *Sim) gitLabDate(text string) (time.Time, *reply) {
	var refused reply
	date, err := time.Parse(time.DateOnly, text)
	switch {
	case err != nil:
		refused = violation(http.StatusBadRequest, "expires_at must be a date")
	case !s.now().Before(date):
		refused = gitLabRefusal(http.StatusBadRequest, "400 Bad request - Expiration date must be in the future")
	case date.After(s.now().Add(maxGitLabAge)):
		refused = gitLabRefusal(http.StatusBadRequest, "400 Bad request - Expiration date must be before "+s.now().Add(maxGitLabAge).Format(time.DateOnly))
	default:
		return date, nil
	}
	return date, &refused
}

func shownGitLab(h *heldSecret) map[string]any {
	id, err := strconv.Atoi(h.id)
	if err != nil {
		panic(err) // of digits
	}
	return map[string]any{
		"id": id, "name": h.name, "revoked": !h.isActive(), "created_at": rfc3339(h.created), "description": nil, "scopes": h.scope,
		"user_id": 7, "last_used_at": nil, "active": h.isActive(), "expires_at": h.expiry.Format(time.DateOnly),
	}
}

type gitLabToken struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Scopes      []string `json:"scopes"`
	AccessLevel int      `json:"access_level"`
	ExpiresAt   string   `json:"expires_at"`
}

// gitLabCreate creates a project or group access token (https://docs.gitlab.com/api/project_access_tokens/).
func (s *Sim) gitLabCreate(a *account, resource string, given gitLabToken) reply {
	date, refused := s.gitLabDate(given.ExpiresAt)
	switch level := given.AccessLevel; {
	case given.Name == "" || len(given.Scopes) == 0 || !slices.Contains([]int{0, 10, 15, 20, 30, 40, 50}, level):
		return violation(http.StatusBadRequest, "name and scopes must be set, and access_level be a role")
	case refused != nil:
		return *refused
	case resource != "projects/"+gitLabProject && resource != "groups/"+gitLabGroup:
		return gitLabRefusal(http.StatusNotFound, "404 Not Found")
	case level > 40 && strings.HasPrefix(resource, "projects/"):
		return gitLabRefusal(http.StatusBadRequest, "400 Bad request - Access level of the token can't be greater the access level of the user who created the token")
	}
	if given.AccessLevel == 0 {
		given.AccessLevel = 40
	}
	token := s.opaque("glpat-")
	s.record(token, date)
	s.rotating.tokens[token] = grantedToken{account: a, audience: gitLabHost, scope: given.Scopes}
	return reply{status: http.StatusCreated, body: map[string]any{
		"id": len(s.issued), "token": token, "name": given.Name, "expires_at": given.ExpiresAt, "scopes": given.Scopes, "access_level": given.AccessLevel,
		"user_id": len(s.issued), "active": true, "revoked": false, "created_at": rfc3339(s.now()), "description": given.Description,
	}}
}
