package vendorsim

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	oktaHost       = "acme.okta.com"
	oktaApps       = "/api/v1/apps/"
	oktaOrg        = "/oauth2/v1/token"
	oktaCustom     = "/oauth2/default/v1/token"
	oktaRevocation = "/oauth2/default/v1/revoke"

	maxOktaSecrets = 2
)

var (
	oktaKinds = []string{"okta-api", "okta/client_secret", "okta/private_key"}

	// oktaScopes are those of the org's server that were granted to a service app.
	oktaScopes = []string{"okta.apps.manage", "okta.apps.read", "okta.users.read"}
)

func (s *Sim) addOktaSecret(a *account) map[string]any {
	h := s.first(a, &heldSecret{id: a.short("ocs", "secret"), text: s.secret(s.opaque(""))})
	fields := s.oktaFields(a, "orders.read")
	fields["client_secret"], fields["secret_id"], fields["api_token"] = h.text, h.id, a.admin
	return fields
}

func (s *Sim) addOktaKey(a *account) map[string]any {
	fields := s.oktaKey(a, newEC, "orders.read")
	fields["api_token"] = a.admin
	return fields
}

func (s *Sim) addOktaAPI(a *account) map[string]any { return s.oktaKey(a, newRSA, "okta.users.read") }

func (s *Sim) oktaKey(a *account, generate keyGenerator, scope string) map[string]any {
	key, text := s.firstKey(a.kind, generate)
	h := s.first(a, &heldSecret{id: a.short("pks", "key"), key: key.Public(), kid: a.hex("kid")})
	h.shown = jwkOf(key.Public(), h.kid)
	fields := s.oktaFields(a, scope)
	fields["private_key"], fields["key_id"], fields["jwk_id"] = text, h.kid, h.id
	return fields
}

// oktaFields gives the app a client ID that was chosen, so that it is not the ID of the app.
func (s *Sim) oktaFields(a *account, scope string) map[string]any {
	a.id, a.objectID, a.admin = "client-"+a.hex("id"), a.short("0oa", "app"), s.secret(s.opaque("00"))
	s.rotating.hosts[oktaHost] = s.okta
	return map[string]any{"domain": oktaHost, "client_id": a.id, "app_id": a.objectID, "scope": []string{scope}}
}

// okta is an org of Okta with a custom authorization server named default.
func (s *Sim) okta(path string, r *http.Request) reply {
	switch path {
	case oktaOrg:
		return s.oktaToken(path, oktaScopes, r)
	case oktaCustom:
		return s.oktaToken(path, []string{"orders.read", "orders.write"}, r)
	case oktaRevocation:
		return s.oktaRevoke(r)
	}
	rest, isApp := strings.CutPrefix(path, oktaApps)
	id, rest, _ := strings.Cut(rest, "/credentials/")
	collection, rest, _ := strings.Cut(rest, "/")
	secret, action, _ := strings.Cut(rest, "/lifecycle/")
	if !isApp || id == "" || collection != "secrets" && collection != "jwks" || strings.Contains(secret, "/") {
		return violation(http.StatusNotFound, "unknown URL")
	}
	return s.oktaCredentials(oktaTarget{id, collection, secret, action}, r)
}

// oktaToken is the token endpoint of a server. That of the org issues tokens for Okta's own API, and only for a key
// (https://developer.okta.com/docs/guides/implement-oauth-for-okta-serviceapp/main/).
func (s *Sim) oktaToken(path string, scopes []string, r *http.Request) reply {
	if problem := checkHeaders(r, []string{"Authorization"}); problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	form, refused := oauthForm(r)
	if refused != nil {
		return refused.reply(s.conduct.OAuth)
	}
	id := form["client_id"]
	if basic, _, isBasic := r.BasicAuth(); isBasic {
		id = basic
	}
	a := s.accountWith(func(a *account) bool { return a.id == id }, oktaKinds...)
	if a == nil {
		return oauthRefusal(invalidClient, "Invalid value for 'client_id' parameter.").reply(s.conduct.OAuth)
	}
	if form["scope"] == "" {
		return oauthRefusal(invalidScope, "The authorization server resource does not have any configured default scopes, 'scope' must be provided.").reply(s.conduct.OAuth)
	}
	client := OAuthClient{
		ID: a.id, AuthMethods: []string{PrivateKeyJWT}, Grants: []string{ClientCredentialsGrant}, Scopes: scopes, Lifetime: s.lifetime(),
		Algorithms: []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"},
		hasSecret:  func(secret string) bool { return s.acceptsText(a, secret) }, keyOf: s.keyOf(a, "kid"),
	}
	if a.kind == "okta/client_secret" && path == oktaCustom {
		client.AuthMethods = []string{SecretBasic}
	}
	return s.tokenFor(a, s.authServer("https://"+oktaHost+path, client, nil), path, r).reply(s.conduct.OAuth)
}

// oktaRevoke is the revocation endpoint of the custom server (https://developer.okta.com/docs/api/openapi/okta-oauth/oauth/tag/CustomAS/).
// It looks only at who asks.
func (s *Sim) oktaRevoke(r *http.Request) reply {
	form, refused := oauthForm(r)
	if refused != nil {
		return refused.reply(s.conduct.OAuth)
	}
	id, _, isBasic := r.BasicAuth()
	if !isBasic {
		id = issuerOf(form["client_assertion"])
	}
	switch {
	case form["token"] == "":
		return violation(http.StatusBadRequest, "token is missing")
	case s.accountWith(func(a *account) bool { return a.id == id }, oktaKinds...) == nil:
		return oauthRefusal(invalidClient, "Invalid value for 'client_id' parameter.").reply(s.conduct.OAuth)
	}
	return reply{status: http.StatusOK}
}

// An oktaTarget is what a URL below /api/v1/apps means. secret and action may be "".
type oktaTarget struct{ app, collection, secret, action string }

// oktaRefusal returns an error of Okta's API.
func oktaRefusal(status int, code, summary string) reply {
	return reply{status: status, body: map[string]any{"errorCode": code, "errorSummary": summary, "errorLink": code, "errorCauses": []any{}}}
}

// oktaCaller checks the authorization of a request: an API token of an administrator, or an access token of the org's
// server.
func (s *Sim) oktaCaller(r *http.Request) *reply {
	needs := "okta.apps.manage"
	if r.Method == http.MethodGet {
		needs = "okta.apps.read"
	}
	var refused reply
	admin, isAdmin := strings.CutPrefix(r.Header.Get("Authorization"), "SSWS ")
	grant, isValid := s.granted(bearer(r))
	isOwn := isValid && slices.Contains(oktaKinds, grant.account.kind)
	switch {
	case isAdmin && s.accountWith(func(a *account) bool { return a.admin == admin }, oktaKinds...) != nil:
		return nil
	case !isAdmin && bearer(r) == "":
		refused = violation(http.StatusUnauthorized, "Authorization must be SSWS or Bearer")
	case !isOwn, grant.audience != oktaOrg:
		refused = oktaRefusal(http.StatusUnauthorized, "E0000011", "Invalid token provided")
	case !slices.Contains(grant.scope, needs) && !slices.Contains(grant.scope, "okta.apps.manage"):
		refused = oktaRefusal(http.StatusForbidden, "E0000006", "You do not have permission to perform the requested action")
	default:
		return nil
	}
	return &refused
}

// oktaCredentials is /api/v1/apps/{appId}/credentials/secrets and …/jwks
// (https://developer.okta.com/docs/api/openapi/okta-management/management/tags/applicationssopublickeys).
func (s *Sim) oktaCredentials(to oktaTarget, r *http.Request) reply {
	var secret oktaSecret
	var key oktaJWK
	method, body := http.MethodPost, any(nil)
	switch {
	case to.secret == "" && r.Method == http.MethodGet:
		method = http.MethodGet
	case to.secret == "" && to.collection == "jwks":
		body = &key
	case to.secret == "" && r.ContentLength != 0:
		body = &secret
	case to.secret != "" && to.action == "":
		method = http.MethodDelete
	}
	if wrong := wrongRequest(r, method, []string{"Authorization"}, nil, body); wrong != nil {
		return *wrong
	}
	if refused := s.oktaCaller(r); refused != nil {
		return *refused
	}
	a := s.accountWith(func(a *account) bool { return a.objectID == to.app }, oktaKinds...)
	if a == nil {
		return oktaRefusal(http.StatusNotFound, "E0000007", "Not found: Resource not found: "+to.app+" (AppInstance)")
	}
	switch {
	case to.secret != "":
		return s.oktaChange(a, to, r)
	case method == http.MethodGet:
		return s.oktaList(a, to.collection)
	case to.collection == "jwks":
		return s.oktaAddKey(a, key)
	}
	return s.oktaAddSecret(a, secret)
}

// oktaChange activates, deactivates or deletes a secret or a key.
func (s *Sim) oktaChange(a *account, to oktaTarget, r *http.Request) reply {
	h := a.with(to.secret)
	isLast := !slices.ContainsFunc(a.stored(), func(other *heldSecret) bool { return other != h && other.isActive() })
	switch {
	case h == nil || (h.key == nil) != (to.collection == "secrets"):
		return oktaRefusal(http.StatusNotFound, "E0000007", "Not found: Resource not found: "+to.secret)
	case r.Method == http.MethodDelete && h.isActive():
		return oktaRefusal(http.StatusBadRequest, "E0000001", "Api validation failed: an active credential cannot be deleted")
	case r.Method == http.MethodDelete:
		s.remove(h)
		return reply{status: http.StatusNoContent}
	case to.action == "activate":
		h.since, h.until = s.now(), time.Time{}
	case to.action != "deactivate":
		return violation(http.StatusNotFound, "unknown URL")
	case isLast && h.key == nil:
		return oktaRefusal(http.StatusBadRequest, "E0000001", "Api validation failed: the only client secret cannot be deactivated")
	default:
		s.deactivate(h)
	}
	return ok(h.oktaShown())
}

func (s *Sim) oktaList(a *account, collection string) reply {
	list := []any{}
	for _, h := range a.stored() {
		if (h.key == nil) == (collection == "secrets") {
			list = append(list, h.oktaShown())
		}
	}
	switch {
	case collection == "jwks" && s.conduct.NestedKeys:
		return ok(map[string]any{"jwks": map[string]any{"keys": list}})
	case collection == "jwks":
		return ok(map[string]any{"keys": list})
	}
	return ok(list)
}
