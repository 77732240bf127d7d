package vendorsim

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
)

const (
	databricksWorkspace = "dbc-a1b2345c-d6e7.cloud.databricks.com"
	databricksConsole   = "accounts.cloud.databricks.com"
	databricksAccount   = "7d1f4a52-3f0e-4c6e-8f43-0b8e5f6a9c11"

	maxDatabricksSecrets  = 5
	maxDatabricksLifetime = 730 * 24 * time.Hour
)

// The service principals of Databricks are administrators of their workspace or account.

func (s *Sim) addDatabricks(a *account) map[string]any {
	h := s.first(a, newDatabricksSecret(s, maxDatabricksLifetime))
	a.objectID = a.number("principal")
	host := databricksWorkspace
	fields := map[string]any{"client_id": a.id, "client_secret": h.text, "secret_id": h.id, "service_principal_id": a.objectID}
	if a.kind == "databricks/account" {
		host, fields["account_id"] = databricksConsole, databricksAccount
	}
	fields["host"] = host
	s.rotating.hosts[host] = func(path string, r *http.Request) reply { return s.databricks(a.kind, host, path, r) }
	return fields
}

func newDatabricksSecret(s *Sim, lifetime time.Duration) *heldSecret {
	id, err := uuid.GenerateUUID()
	if err != nil {
		panic(err)
	}
	return &heldSecret{id: id, text: s.secret(s.opaque("dose")), expiry: s.now().Add(lifetime)}
}

// databricks is a workspace, or the account console, which serves the kind of the account only.
func (s *Sim) databricks(kind, host, path string, r *http.Request) reply {
	token, principals := "/oidc/v1/token", "/api/2.0/accounts/servicePrincipals/"
	if kind == "databricks/account" {
		token, principals = "/oidc/accounts/"+databricksAccount+"/v1/token", "/api/2.0/accounts/"+databricksAccount+"/servicePrincipals/"
	}
	if path == token {
		return s.databricksToken(kind, "https://"+host+path, r)
	}
	rest, isPrincipal := strings.CutPrefix(path, principals)
	principal, rest, isSecrets := strings.Cut(rest, "/credentials/secrets")
	secret := strings.TrimPrefix(rest, "/")
	if !isPrincipal || !isSecrets || strings.Contains(secret, "/") || rest != "" && secret == "" {
		return violation(http.StatusNotFound, "unknown URL")
	}
	return s.databricksSecrets(kind, principal, secret, r)
}

// databricksToken is the token endpoint (https://docs.databricks.com/aws/en/dev-tools/auth/oauth-m2m).
func (s *Sim) databricksToken(kind, tokenURL string, r *http.Request) reply {
	if problem := checkHeaders(r, []string{"Authorization"}); problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	id, _, isBasic := r.BasicAuth()
	if !isBasic {
		return violation(http.StatusUnauthorized, "Authorization must be Basic")
	}
	a := s.accountWith(func(a *account) bool { return a.id == id }, kind)
	if a == nil {
		return oauthRefusal(invalidClient, "Client authentication failed").reply(s.conduct.OAuth)
	}
	client := OAuthClient{
		ID: a.id, AuthMethods: []string{SecretBasic}, Grants: []string{ClientCredentialsGrant}, Scopes: []string{"all-apis"}, Lifetime: s.lifetime(),
		hasSecret: func(secret string) bool { return s.acceptsText(a, secret) },
	}
	server := s.authServer(tokenURL, client, map[string]string{invalidClient: "Client authentication failed"})
	return s.tokenFor(a, server, kind, r).reply(s.conduct.OAuth)
}

func databricksRefusal(status int, code, message string) reply {
	return reply{status: status, body: map[string]string{"error_code": code, "message": message}}
}

type databricksSecret struct {
	Lifetime string `json:"lifetime"`
}

// databricksSecrets is …/servicePrincipals/{id}/credentials/secrets
// (https://docs.databricks.com/api/account/serviceprincipalsecrets/create).
func (s *Sim) databricksSecrets(kind, principal, secret string, r *http.Request) reply {
	var given databricksSecret
	method, body := http.MethodPost, any(&given)
	switch {
	case secret != "":
		method, body = http.MethodDelete, nil
	case r.Method == http.MethodGet:
		method, body = http.MethodGet, nil
	}
	if wrong := wrongRequest(r, method, []string{"Authorization"}, nil, body); wrong != nil {
		return *wrong
	}
	grant, isValid := s.granted(bearer(r))
	a := s.accountWith(func(a *account) bool { return a.objectID == principal }, kind)
	switch {
	case bearer(r) == "":
		return violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	case !isValid || grant.audience != kind:
		return databricksRefusal(http.StatusUnauthorized, "UNAUTHENTICATED", "Invalid access token")
	case !slices.Contains(grant.scope, "all-apis"):
		return databricksRefusal(http.StatusForbidden, "PERMISSION_DENIED", "Provided OAuth token does not have required scopes: all-apis")
	case a == nil:
		return databricksRefusal(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Service principal "+principal+" does not exist")
	case method == http.MethodPost:
		return s.databricksCreate(a, given)
	case method == http.MethodGet:
		return s.databricksList(a)
	}
	h := a.with(secret)
	if h == nil {
		return databricksRefusal(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Secret "+secret+" does not exist")
	}
	s.remove(h)
	return ok(map[string]any{})
}

func (s *Sim) databricksCreate(a *account, given databricksSecret) reply {
	lifetime := maxDatabricksLifetime
	if given.Lifetime != "" {
		digits, isDuration := strings.CutSuffix(given.Lifetime, "s")
		seconds, err := strconv.ParseUint(digits, 10, 32)
		lifetime = time.Duration(seconds) * time.Second
		if !isDuration || err != nil || lifetime == 0 || lifetime > maxDatabricksLifetime {
			return violation(http.StatusBadRequest, "lifetime must be a number of seconds of at most 730 days, such as 86400s")
		}
	}
	if len(a.stored()) >= maxDatabricksSecrets {
		return databricksRefusal(http.StatusBadRequest, "RESOURCE_LIMIT_EXCEEDED", "A service principal can have at most 5 secrets")
	}
	h := a.hold(newDatabricksSecret(s, lifetime), s.now())
	shown := s.shownDatabricks(h)
	shown["secret"] = h.text
	return ok(shown)
}

func (s *Sim) databricksList(a *account) reply {
	list := []any{}
	for _, h := range a.stored() {
		list = append(list, s.shownDatabricks(h))
	}
	return ok(map[string]any{"secrets": list})
}

func (s *Sim) shownDatabricks(h *heldSecret) map[string]any {
	sum := sha256.Sum256([]byte(h.text))
	status := "ACTIVE"
	if !h.isValid(s.now()) {
		status = "INACTIVE"
	}
	return map[string]any{
		"id": h.id, "secret_hash": hex.EncodeToString(sum[:]), "status": status,
		"create_time": rfc3339(h.created), "update_time": rfc3339(h.created), "expire_time": rfc3339(h.expiry),
	}
}
