package vendorsim

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	googleLogin   = "oauth2.googleapis.com"
	googleIAM     = "iam.googleapis.com"
	googleProject = "acme-prod"

	googleCloud   = "https://www.googleapis.com/auth/cloud-platform"
	googleIAMOnly = "https://www.googleapis.com/auth/iam"

	maxGoogleKeys = 10
)

// The service accounts of Google have roles/iam.serviceAccountKeyAdmin on themselves.

func (s *Sim) addGoogle(a *account) map[string]any {
	key, text := s.firstKey(a.kind, newRSA)
	a.id = a.short("sa-", "id") + "@" + googleProject + ".iam.gserviceaccount.com"
	kid := a.hex("kid") + a.hex("more")[:8]
	h := s.first(a, &heldSecret{id: kid, kid: kid, name: "GOOGLE_PROVIDED", key: key.Public(), expiry: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
	s.rotating.hosts[googleLogin], s.rotating.hosts[googleIAM] = s.googleToken, s.googleKeys
	return map[string]any{
		"client_email": a.id, "private_key": text, "key_id": h.id, "project": googleProject, "scope": []string{"https://www.googleapis.com/auth/pubsub"},
	}
}

// googleToken is POST /token (https://developers.google.com/identity/protocols/oauth2/service-account).
func (s *Sim) googleToken(path string, r *http.Request) reply {
	if path != "/token" {
		return violation(http.StatusNotFound, "unknown URL")
	}
	if problem := checkHeaders(r, nil); problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	form, refused := oauthForm(r)
	if refused != nil {
		return refused.reply(s.conduct.OAuth)
	}
	a := s.accountWith(func(a *account) bool { return a.id == issuerOf(form["assertion"]) }, "google")
	if a == nil {
		return oauthRefusal(invalidGrant, "Invalid grant: account not found").reply(s.conduct.OAuth)
	}
	client := OAuthClient{
		ID: a.id, Grants: []string{JWTBearerGrant}, Algorithms: []string{"RS256"}, ScopeInAssertion: true, Lifetime: s.lifetime(),
		Scopes: []string{googleCloud, googleIAMOnly, "https://www.googleapis.com/auth/pubsub"}, keyOf: s.keyOf(a, "kid"),
	}
	server := s.authServer("https://"+googleLogin+path, client, map[string]string{invalidGrant: "Invalid JWT Signature."})
	answer := s.tokenFor(a, server, "", r)
	delete(answer.body, "scope")
	return answer.reply(s.conduct.OAuth)
}

func googleRefusal(code int, status, message string) reply {
	return reply{status: code, body: map[string]any{"error": map[string]any{"code": code, "status": status, "message": message}}}
}

// googleKeys is /v1/projects/{project}/serviceAccounts/{email}/keys
// (https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts.keys).
func (s *Sim) googleKeys(path string, r *http.Request) reply {
	rest, isProject := strings.CutPrefix(path, "/v1/projects/")
	project, rest, isAccount := strings.Cut(rest, "/serviceAccounts/")
	email, rest, isKeys := strings.Cut(rest, "/keys")
	var upload googleUpload
	method, query, body := http.MethodGet, []string(nil), any(nil)
	key := strings.TrimPrefix(rest, "/")
	switch {
	case !isProject || !isAccount || !isKeys || strings.Contains(key, "/"):
		return violation(http.StatusNotFound, "unknown URL")
	case rest == "":
		query = []string{"keyTypes"}
	case rest == ":upload":
		method, body = http.MethodPost, &upload
	case rest != "/"+key || key == "" || strings.Contains(key, ":"):
		return violation(http.StatusNotFound, "unknown URL")
	default:
		method = http.MethodDelete
	}
	if wrong := wrongRequest(r, method, []string{"Authorization"}, query, body); wrong != nil {
		return *wrong
	}
	grant, isValid := s.granted(bearer(r))
	a := s.accountWith(func(a *account) bool { return a.id == email && (project == googleProject || project == "-") }, "google")
	switch {
	case bearer(r) == "":
		return violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	case !isValid || grant.account.kind != "google":
		return googleRefusal(http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
	case !slices.Contains(grant.scope, googleCloud) && !slices.Contains(grant.scope, googleIAMOnly):
		return googleRefusal(http.StatusForbidden, "PERMISSION_DENIED", "Request had insufficient authentication scopes.")
	case a == nil:
		return googleMissing(project, "Service account "+email+" does not exist.")
	case a != grant.account:
		return googleRefusal(http.StatusForbidden, "PERMISSION_DENIED", "Permission 'iam.serviceAccountKeys."+strings.ToLower(method)+"' denied on resource (or it may not exist).")
	case method == http.MethodPost:
		return s.googleUpload(a, upload)
	case method == http.MethodGet:
		return s.googleList(a, r.URL.Query().Get("keyTypes"))
	}
	h := a.with(key)
	if h == nil {
		return googleMissing(project, "Service account key "+key+" does not exist.")
	}
	s.remove(h)
	return ok(map[string]any{})
}

// googleMissing returns the error of something that does not exist. With the wildcard as the project, it is another.
func googleMissing(project, message string) reply {
	if project == "-" {
		return googleRefusal(http.StatusForbidden, "PERMISSION_DENIED", "Permission denied on resource (or it may not exist).")
	}
	return googleRefusal(http.StatusNotFound, "NOT_FOUND", message)
}

type googleUpload struct {
	PublicKeyData string `json:"publicKeyData"`
}

// googleUpload takes the certificate of a key, which the account keeps
// (https://cloud.google.com/iam/docs/keys-upload).
func (s *Sim) googleUpload(a *account, given googleUpload) reply {
	text, err := base64.StdEncoding.DecodeString(given.PublicKeyData)
	block, _ := pem.Decode(text)
	if err != nil || block == nil || block.Type != "CERTIFICATE" || !strings.HasPrefix(string(text), "-----BEGIN") {
		return violation(http.StatusBadRequest, "publicKeyData must be the base64 of a certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return violation(http.StatusBadRequest, "publicKeyData has no valid certificate")
	}
	key, isRSA := certificate.PublicKey.(*rsa.PublicKey)
	switch {
	case !isRSA || certificate.Version != 3:
		return googleRefusal(http.StatusBadRequest, "INVALID_ARGUMENT", "The key must be an RSA key in an X.509 v3 certificate.")
	case !s.now().Before(certificate.NotAfter):
		return googleRefusal(http.StatusBadRequest, "INVALID_ARGUMENT", "The certificate has expired.")
	case len(a.stored()) >= maxGoogleKeys:
		return googleRefusal(http.StatusTooManyRequests, "RESOURCE_EXHAUSTED", "Maximum number of keys on account reached.")
	case slices.ContainsFunc(a.stored(), func(h *heldSecret) bool { return isSameKey(h.key, key) }):
		return googleRefusal(http.StatusBadRequest, "FAILED_PRECONDITION", "The public key exists already.")
	}
	sum := a.sum(fmt.Sprint("key ", len(a.secrets)))
	id := hex.EncodeToString(sum[:20])
	h := &heldSecret{id: id, kid: id, name: "USER_PROVIDED", key: key, notBefore: certificate.NotBefore, expiry: certificate.NotAfter}
	return ok(a.shownGoogle(a.hold(h, s.now())))
}

func (s *Sim) googleList(a *account, types string) reply {
	list := []any{}
	for _, h := range s.listed(a) {
		if types != "SYSTEM_MANAGED" {
			list = append(list, a.shownGoogle(h))
		}
	}
	if types != "USER_MANAGED" {
		own := a.shownGoogle(&heldSecret{id: a.hex("system"), name: "GOOGLE_PROVIDED", notBefore: s.now().Add(-age), expiry: s.now().Add(age)})
		own["keyType"] = "SYSTEM_MANAGED"
		list = append(list, own)
	}
	return ok(map[string]any{"keys": list})
}

func (a *account) shownGoogle(h *heldSecret) map[string]any {
	from := h.notBefore
	if from.IsZero() {
		from = h.created
	}
	return map[string]any{
		"name": fmt.Sprintf("projects/%s/serviceAccounts/%s/keys/%s", googleProject, a.id, h.id), "keyAlgorithm": "KEY_ALG_RSA_2048",
		"keyOrigin": h.name, "keyType": "USER_MANAGED", "validAfterTime": rfc3339(from), "validBeforeTime": rfc3339(h.expiry),
	}
}
