package vendorsim

import (
	"crypto"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	auth0Domain     = "acme.us"
	auth0Host       = auth0Domain + ".auth0.com"
	auth0Issuer     = "https://" + auth0Host + "/"
	auth0Management = auth0Issuer + "api/v2/"
	auth0API        = "https://api.acme.com"

	auth0Clients  = "/api/v2/clients/"
	maxAuth0Keys  = 2
	auth0Lifetime = 24 * time.Hour
)

var (
	auth0Kinds  = []string{"auth0/client_secret", "auth0/private_key"}
	auth0KeyID  = regexp.MustCompile(`^[0-9a-zA-Z_-]{10,64}$`)
	auth0Scopes = []string{
		"update:clients", "update:client_keys",
		"create:client_credentials", "read:client_credentials", "update:client_credentials", "delete:client_credentials",
	}
)

func (s *Sim) addAuth0Secret(a *account) map[string]any {
	fields := s.auth0Fields(a)
	fields["client_secret"] = s.first(a, &heldSecret{id: "client_secret", text: s.secret(s.opaque(""))}).text
	return fields
}

func (s *Sim) addAuth0Key(a *account) map[string]any {
	key, text := s.firstKey(a.kind, newRSA)
	h := s.first(a, &heldSecret{id: a.short("cred_", "key"), name: "first", key: key.Public(), kid: a.hex("kid"), alg: "RS256"})
	fields := s.auth0Fields(a)
	fields["private_key"], fields["key_id"], fields["credential_id"] = text, h.kid, h.id
	return fields
}

func (s *Sim) auth0Fields(a *account) map[string]any {
	a.id = a.hex("id")
	s.rotating.hosts[auth0Host] = s.auth0
	return map[string]any{"domain": auth0Domain, "client_id": a.id, "audience": auth0API}
}

// auth0 is a tenant of Auth0.
func (s *Sim) auth0(path string, r *http.Request) reply {
	if path == "/oauth/token" {
		return s.auth0Token(r)
	}
	rest, isClient := strings.CutPrefix(path, auth0Clients)
	id, rest, _ := strings.Cut(rest, "/")
	name, credential, _ := strings.Cut(rest, "/")
	a := s.accountWith(func(a *account) bool { return a.id == id }, auth0Kinds...)
	switch {
	case !isClient || id == "" || name != "" && name != "credentials":
		return violation(http.StatusNotFound, "unknown URL")
	case name == "":
		return s.auth0Update(a, r)
	case credential != "":
		return s.auth0Delete(a, credential, r)
	case r.Method == http.MethodGet:
		return s.auth0List(a, r)
	}
	return s.auth0Create(a, r)
}

// auth0Token is POST /oauth/token (https://auth0.com/docs/api/authentication/client-credential-flow/get-token).
func (s *Sim) auth0Token(r *http.Request) reply {
	form, refused := oauthForm(r)
	if refused != nil {
		return refused.reply(s.conduct.OAuth)
	}
	a := s.accountWith(func(a *account) bool { return a.id == form["client_id"] }, auth0Kinds...)
	audience, scopes := form["audience"], []string(nil)
	switch problem := checkHeaders(r, nil); {
	case problem != "":
		return violation(http.StatusBadRequest, problem)
	case a == nil:
		return auth0Denied("Unauthorized", http.StatusUnauthorized)
	case audience == auth0Management:
		scopes = auth0Scopes
	case audience != auth0API:
		return auth0Denied(fmt.Sprintf("Service not enabled within domain: %s", audience), http.StatusForbidden)
	}
	client := OAuthClient{
		ID: a.id, AuthMethods: []string{SecretPost, SecretBasic}, Grants: []string{ClientCredentialsGrant}, Audiences: []string{audience}, Scopes: scopes,
		Lifetime: auth0Lifetime, hasSecret: func(secret string) bool { return s.acceptsText(a, secret) }, keyOf: s.auth0Key(a),
	}
	if s.conduct.Lifetime != 0 {
		client.Lifetime = s.conduct.Lifetime
	}
	if a.kind == "auth0/private_key" {
		client.AuthMethods = []string{PrivateKeyJWT}
	}
	answer := s.tokenFor(a, s.authServer(auth0Issuer+"oauth/token", client, nil, auth0Issuer), audience, r)
	if answer.code == invalidClient && !answer.violation {
		return auth0Denied("Unauthorized", http.StatusUnauthorized)
	}
	return answer.reply(s.conduct.OAuth)
}

// auth0Key finds the key of a client assertion by its kid, if it has one.
func (s *Sim) auth0Key(a *account) func(*jwt.Token) (any, error) {
	return func(token *jwt.Token) (any, error) {
		if token.Header["kid"] != nil {
			return s.keyOf(a, "kid")(token)
		}
		var keys jwt.VerificationKeySet
		for _, h := range a.secrets {
			if s.accepts(h) && h.alg == token.Method.Alg() {
				keys.Keys = append(keys.Keys, h.key)
			}
		}
		return keys, nil
	}
}

func auth0Denied(description string, status int) reply {
	return reply{status: status, body: map[string]string{"error": "access_denied", "error_description": description}}
}

// auth0Refusal returns an error of the Management API.
func auth0Refusal(status int, code, message string) reply {
	return reply{status: status, body: map[string]any{"statusCode": status, "error": http.StatusText(status), "message": message, "errorCode": code}}
}

// auth0Caller checks the token of a request to the Management API, and that the client exists.
func (s *Sim) auth0Caller(a *account, r *http.Request, scopes ...string) *reply {
	grant, isValid := s.granted(bearer(r))
	var refused reply
	switch {
	case bearer(r) == "":
		refused = violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	case !isValid:
		refused = auth0Refusal(http.StatusUnauthorized, "invalid_token", "Invalid or expired token")
	case grant.audience != auth0Management:
		refused = auth0Refusal(http.StatusUnauthorized, "invalid_token", "Bad audience: "+grant.audience)
	case slices.ContainsFunc(scopes, func(one string) bool { return !slices.Contains(grant.scope, one) }):
		refused = auth0Refusal(http.StatusForbidden, "insufficient_scope", "Insufficient scope, expected all of: "+strings.Join(scopes, ","))
	case a == nil:
		refused = auth0Refusal(http.StatusNotFound, "inexistent_client", "The client does not exist")
	default:
		return nil
	}
	return &refused
}

type auth0Change struct {
	ClientSecret *string `json:"client_secret"`
	Methods      *struct {
		PrivateKeyJWT struct {
			Credentials []struct {
				ID string `json:"id"`
			} `json:"credentials"`
		} `json:"private_key_jwt"`
	} `json:"client_authentication_methods"`
}

// auth0Update is PATCH /api/v2/clients/{id} (https://auth0.com/docs/api/management/v2/clients/patch-clients-by-id).
func (s *Sim) auth0Update(a *account, r *http.Request) reply {
	var change auth0Change
	if wrong := wrongRequest(r, http.MethodPatch, []string{"Authorization"}, nil, &change); wrong != nil {
		return *wrong
	}
	scopes := []string{"update:clients"}
	switch {
	case (change.ClientSecret == nil) == (change.Methods == nil):
		return violation(http.StatusBadRequest, "must change one of client_secret and client_authentication_methods")
	case change.Methods != nil:
		scopes = append(scopes, "update:client_credentials")
	default:
		scopes = append(scopes, "update:client_keys")
		s.secret(*change.ClientSecret)
	}
	if refused := s.auth0Caller(a, r, scopes...); refused != nil {
		return *refused
	}
	if change.Methods != nil {
		return s.auth0Associate(a, change)
	}
	switch {
	case *change.ClientSecret == "":
		return violation(http.StatusBadRequest, "client_secret must not be empty")
	case a.kind != "auth0/client_secret":
		return auth0Refusal(http.StatusBadRequest, "invalid_body", "client_secret cannot be set for a client that authenticates with private_key_jwt")
	}
	if present := a.latest((*heldSecret).isActive); present.text != *change.ClientSecret {
		s.remove(present)
		a.hold(&heldSecret{id: "client_secret", text: *change.ClientSecret}, s.now())
	}
	return ok(map[string]any{"client_id": a.id, "name": a.name, "client_secret": *change.ClientSecret})
}

// auth0Associate sets which credentials authenticate the client.
func (s *Sim) auth0Associate(a *account, change auth0Change) reply {
	var ids []string
	for _, given := range change.Methods.PrivateKeyJWT.Credentials {
		if a.with(given.ID) == nil || slices.Contains(ids, given.ID) {
			return auth0Refusal(http.StatusBadRequest, "invalid_body", "Some credentials do not exist or are given twice: "+given.ID)
		}
		ids = append(ids, given.ID)
	}
	if len(ids) == 0 || a.kind != "auth0/private_key" {
		return auth0Refusal(http.StatusBadRequest, "invalid_body", "private_key_jwt needs at least one credential")
	}
	for _, h := range a.stored() {
		switch isChosen := slices.Contains(ids, h.id); {
		case isChosen && !h.isActive():
			h.since, h.until = s.now(), time.Time{}
		case !isChosen:
			s.deactivate(h)
		}
	}
	return ok(map[string]any{"client_id": a.id, "name": a.name, "client_authentication_methods": map[string]any{"private_key_jwt": change.Methods.PrivateKeyJWT.Credentials}})
}

type auth0Credential struct {
	Type      string `json:"credential_type"`
	PEM       string `json:"pem"`
	Name      string `json:"name"`
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	ExpiresAt string `json:"expires_at"`
}

// auth0Create is POST /api/v2/clients/{id}/credentials
// (https://auth0.com/docs/get-started/applications/rotate-credentials).
func (s *Sim) auth0Create(a *account, r *http.Request) reply {
	given := auth0Credential{Algorithm: "RS256"}
	if wrong := wrongRequest(r, http.MethodPost, []string{"Authorization"}, nil, &given); wrong != nil {
		return *wrong
	}
	if refused := s.auth0Caller(a, r, "create:client_credentials"); refused != nil {
		return *refused
	}
	key := publicKeyIn(given.PEM)
	expiry, isTime := statedTime(given.ExpiresAt)
	switch {
	case given.Type != "public_key" || key == nil || !isTime:
		return violation(http.StatusBadRequest, "must be a public_key with a pem, and expires_at in UTC if at all")
	case given.KeyID != "" && !auth0KeyID.MatchString(given.KeyID):
		return violation(http.StatusBadRequest, "kid must match "+auth0KeyID.String())
	case !slices.Contains([]string{"RS256", "RS384", "PS256"}, given.Algorithm):
		return violation(http.StatusBadRequest, "alg must be RS256, RS384 or PS256")
	case len(a.stored()) >= maxAuth0Keys:
		return auth0Refusal(http.StatusBadRequest, "too_many_credentials", "The client has two credentials already")
	case slices.ContainsFunc(a.stored(), func(h *heldSecret) bool { return isSameKey(h.key, key) || h.kid == given.KeyID }):
		return auth0Refusal(http.StatusBadRequest, "duplicate_credential", "The credential exists already")
	}
	h := &heldSecret{id: fmt.Sprintf("%s%d", a.short("cred_", "key"), len(a.secrets)), name: given.Name, key: key, kid: given.KeyID, alg: given.Algorithm, expiry: expiry}
	if h.kid == "" {
		h.kid = s.opaque("")
	}
	a.hold(h, s.now()).since = time.Time{} // until it is associated
	return reply{status: http.StatusCreated, body: shownCredential(h)}
}

func shownCredential(h *heldSecret) map[string]any {
	shown := map[string]any{
		"id": h.id, "name": h.name, "kid": h.kid, "alg": h.alg, "credential_type": "public_key", "created_at": rfc3339(h.created), "updated_at": rfc3339(h.created),
	}
	if !h.expiry.IsZero() {
		shown["expires_at"] = rfc3339(h.expiry)
	}
	return shown
}

func (s *Sim) auth0List(a *account, r *http.Request) reply {
	if wrong := wrongRequest(r, http.MethodGet, []string{"Authorization"}, nil, nil); wrong != nil {
		return *wrong
	}
	if refused := s.auth0Caller(a, r, "read:client_credentials"); refused != nil {
		return *refused
	}
	list := []any{}
	for _, h := range a.stored() {
		if h.key != nil {
			list = append(list, shownCredential(h))
		}
	}
	return ok(list)
}

func (s *Sim) auth0Delete(a *account, id string, r *http.Request) reply {
	if wrong := wrongRequest(r, http.MethodDelete, []string{"Authorization"}, nil, nil); wrong != nil {
		return *wrong
	}
	if refused := s.auth0Caller(a, r, "delete:client_credentials"); refused != nil {
		return *refused
	}
	h := a.with(id)
	switch {
	case h == nil || h.key == nil:
		return auth0Refusal(http.StatusNotFound, "inexistent_credential", "The credential does not exist")
	case h.isActive():
		return auth0Refusal(http.StatusBadRequest, "credential_in_use", "The credential is associated with an authentication method")
	}
	s.remove(h)
	return reply{status: http.StatusNoContent}
}

// publicKeyIn returns the RSA key in a PEM file; nil if there is none.
func publicKeyIn(text string) crypto.PublicKey {
	key, err := jwt.ParseRSAPublicKeyFromPEM([]byte(text))
	if err != nil {
		return nil
	}
	return key
}
