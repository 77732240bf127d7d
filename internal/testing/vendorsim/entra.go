package vendorsim

import (
	"crypto"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	entraLogin  = "login.microsoftonline.com"
	entraGraph  = "graph.microsoft.com"
	entraTenant = "3c5a31a5-5c30-4a1e-9d3d-0f1d8ab2a7a1"

	entraPrefix = "/" + entraTenant + "/oauth2/v2.0/token"
	dotDefault  = "/.default"
)

// The applications of Microsoft Entra ID own themselves and have Application.ReadWrite.OwnedBy of Microsoft Graph.

func (s *Sim) addEntraSecret(a *account) map[string]any {
	h := s.first(a, &heldSecret{id: a.uuid("secret"), name: "first", text: s.secret(s.opaque("E8Q")), notBefore: s.now().Add(-age), expiry: s.now().AddDate(2, 0, 0)})
	fields := s.entraFields(a)
	fields["client_secret"], fields["secret_id"] = h.text, h.id
	return fields
}

func (s *Sim) addEntraCertificate(a *account) map[string]any {
	key, text := s.firstKey(a.kind, newRSA)
	from, to := s.now().Add(-age), s.now().AddDate(1, 0, 0)
	der, certificate := firstCertificate(key, from, to)
	h := s.first(a, newEntraCertificate(a.uuid("certificate"), "first", der, key.Public(), from, to))
	fields := s.entraFields(a)
	fields["private_key"], fields["certificate"], fields["certificate_id"], fields["object_id"] = text, certificate, h.id, a.objectID
	return fields
}

func newEntraCertificate(id, name string, der []byte, key crypto.PublicKey, from, to time.Time) *heldSecret {
	s256, _ := thumbprints(der)
	return &heldSecret{id: id, name: name, key: key, der: der, kid: s256, notBefore: from, expiry: to}
}

func (s *Sim) entraFields(a *account) map[string]any {
	s.rotating.hosts[entraLogin], s.rotating.hosts[entraGraph] = s.entraToken, s.graph
	return map[string]any{"tenant": entraTenant, "client_id": a.id, "scope": []string{"https://vault.azure.net/.default"}}
}

// entraToken is POST /{tenant}/oauth2/v2.0/token
// (https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
func (s *Sim) entraToken(path string, r *http.Request) reply {
	if path != entraPrefix {
		if strings.HasSuffix(path, "/oauth2/v2.0/token") {
			return oauthRefusal(invalidRequest, "AADSTS90002: Tenant not found.").reply(s.conduct.OAuth)
		}
		return violation(http.StatusNotFound, "unknown URL")
	}
	if problem := checkHeaders(r, nil); problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	form, refused := oauthForm(r)
	if refused != nil {
		return refused.reply(s.conduct.OAuth)
	}
	a := s.accountWith(func(a *account) bool { return a.id == form["client_id"] }, "entra/client_secret", "entra/certificate")
	asked := form["scope"]
	resource, isDefault := strings.CutSuffix(asked, dotDefault)
	switch {
	case a == nil:
		return oauthRefusal(unauthorizedClient, "AADSTS700016: Application with identifier '%s' was not found in the directory.", form["client_id"]).reply(s.conduct.OAuth)
	case asked == "":
		return oauthViolation(invalidRequest, "AADSTS90014: The required field 'scope' is missing from the credential.").reply(s.conduct.OAuth)
	case !isDefault || strings.Contains(asked, " "):
		return oauthRefusal(invalidScope, "AADSTS1002012: The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).", asked).reply(s.conduct.OAuth)
	}
	client := OAuthClient{
		ID: a.id, AuthMethods: []string{SecretPost}, Grants: []string{ClientCredentialsGrant}, Scopes: []string{asked}, Lifetime: s.lifetime(),
		hasSecret: func(secret string) bool { return s.acceptsText(a, secret) },
		keyOf:     s.entraKey(a),
	}
	description := "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID."
	if a.kind == "entra/certificate" {
		client.AuthMethods = []string{PrivateKeyJWT}
		description = "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application, or is not valid."
	}
	server := s.authServer("https://"+entraLogin+entraPrefix, client, map[string]string{invalidClient: description})
	answer := s.tokenFor(a, server, resource, r)
	delete(answer.body, "scope")
	if expiresIn, isStated := answer.body["expires_in"]; isStated {
		answer.body["ext_expires_in"] = expiresIn
	}
	return answer.reply(s.conduct.OAuth)
}

// entraKey finds the certificate of a client assertion: PS256 with x5t#S256, or RS256 with x5t, as before
// (https://learn.microsoft.com/entra/identity-platform/certificate-credentials).
func (s *Sim) entraKey(a *account) func(*jwt.Token) (any, error) {
	return func(token *jwt.Token) (any, error) {
		switch token.Method.Alg() {
		case "PS256":
			return s.keyOf(a, "x5t#S256")(token)
		case "RS256":
			return s.certificateOf(a, token)
		}
		return nil, errUnknownAlgorithm
	}
}

// certificateOf finds an accepted certificate by x5t.
func (s *Sim) certificateOf(a *account, token *jwt.Token) (any, error) {
	for _, h := range a.secrets {
		if _, x5t := thumbprints(h.der); token.Header["x5t"] == x5t && s.accepts(h) {
			return h.key, nil
		}
	}
	return nil, errForeignKey
}

// entraApplication returns the application of a path of Microsoft Graph, and what follows it.
func (s *Sim) entraApplication(path string) (a *account, action string) {
	rest, isApplication := strings.CutPrefix(path, "/v1.0/applications")
	if !isApplication {
		return nil, ""
	}
	byID := func(id string) func(*account) bool { return func(a *account) bool { return a.id == id } }
	if quoted, isByAppID := strings.CutPrefix(rest, "(appId='"); isByAppID {
		id, action, _ := strings.Cut(quoted, "')")
		return s.accountWith(byID(id), entraKinds...), action
	}
	id, action, hasAction := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	if hasAction {
		action = "/" + action
	}
	return s.accountWith(func(a *account) bool { return a.objectID == id }, entraKinds...), action
}

var entraKinds = []string{"entra/client_secret", "entra/certificate"}

// graphRefusal returns an error of Microsoft Graph.
func graphRefusal(status int, code, message string) reply {
	return reply{status: status, body: map[string]any{"error": map[string]any{"code": code, "message": message}}}
}

// graphCaller returns the application that a request to Microsoft Graph is authorized as.
func (s *Sim) graphCaller(r *http.Request) (caller *account, refused *reply) {
	token := bearer(r)
	grant, isValid := s.granted(token)
	var wrong reply
	switch {
	case token == "":
		wrong = violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	case grant.account == nil || !slices.Contains(entraKinds, grant.account.kind):
		wrong = graphRefusal(http.StatusUnauthorized, "InvalidAuthenticationToken", "CompactToken parsing failed.")
	case !isValid:
		wrong = graphRefusal(http.StatusUnauthorized, "InvalidAuthenticationToken", "Lifetime validation failed, the token is expired.")
	case grant.audience != "https://"+entraGraph:
		wrong = graphRefusal(http.StatusUnauthorized, "InvalidAuthenticationToken", "Access token validation failure. Invalid audience.")
	default:
		return grant.account, nil
	}
	return nil, &wrong
}
