package vendorsim

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-uuid"
)

// graphAudience is the aud of a proof of possession, and maxProof its longest lifetime
// (https://learn.microsoft.com/graph/application-rollkey-prooftoken).
const (
	graphAudience = "00000002-0000-0000-c000-000000000000"
	maxProof      = 10 * time.Minute
)

// graph is the part of Microsoft Graph that manages the secrets and certificates of an application
// (https://learn.microsoft.com/graph/api/resources/application).
func (s *Sim) graph(path string, r *http.Request) reply {
	actions := map[string]struct {
		method string
		query  []string
		body   any
		do     func(a *account, body any, r *http.Request) reply
	}{
		"":                {http.MethodGet, []string{"$select"}, nil, s.graphShow},
		"/addPassword":    {http.MethodPost, nil, &graphAddPassword{}, s.graphAddPassword},
		"/removePassword": {http.MethodPost, nil, &graphRemovePassword{}, s.graphRemovePassword},
		"/addKey":         {http.MethodPost, nil, &graphAddKey{}, s.graphAddKey},
		"/removeKey":      {http.MethodPost, nil, &graphRemoveKey{}, s.graphRemoveKey},
	}
	a, name := s.entraApplication(path)
	action, isKnown := actions[name]
	if !isKnown || !strings.HasPrefix(path, "/v1.0/applications") {
		return violation(http.StatusNotFound, "unknown URL")
	}
	if wrong := wrongRequest(r, action.method, []string{"Authorization"}, action.query, action.body); wrong != nil {
		return *wrong
	}
	caller, refused := s.graphCaller(r)
	switch {
	case refused != nil:
		return *refused
	case a == nil:
		return graphRefusal(http.StatusNotFound, "Request_ResourceNotFound", "Resource does not exist or one of its queried reference-property objects are not present.")
	case a != caller: // with Application.ReadWrite.OwnedBy
		return graphRefusal(http.StatusForbidden, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
	}
	return action.do(a, action.body, r)
}

type graphAddPassword struct {
	PasswordCredential *struct {
		DisplayName   string `json:"displayName"`
		StartDateTime string `json:"startDateTime"`
		EndDateTime   string `json:"endDateTime"`
	} `json:"passwordCredential"`
}

func (s *Sim) graphAddPassword(a *account, body any, _ *http.Request) reply {
	given := body.(*graphAddPassword).PasswordCredential
	if given == nil {
		return violation(http.StatusBadRequest, "passwordCredential is missing")
	}
	from, isFrom := statedTime(given.StartDateTime)
	to, isTo := statedTime(given.EndDateTime)
	if !isFrom || !isTo {
		return violation(http.StatusBadRequest, "a time must be one of ISO 8601 in UTC")
	}
	if from.IsZero() {
		from = s.now()
	}
	if to.IsZero() {
		to = from.AddDate(2, 0, 0)
	}
	if !from.Before(to) {
		return graphRefusal(http.StatusBadRequest, "Request_BadRequest", "Credential endDateTime must be later than startDateTime.")
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		panic(err)
	}
	h := a.hold(&heldSecret{id: id, name: given.DisplayName, text: s.secret(s.opaque("E8Q")[:40]), notBefore: from, expiry: to}, s.now())
	shown := shownPassword(h)
	shown["secretText"] = h.text
	return ok(shown)
}

func shownPassword(h *heldSecret) map[string]any {
	return map[string]any{
		"keyId": h.id, "displayName": h.name, "hint": h.text[:3], "secretText": nil, "customKeyIdentifier": nil,
		"startDateTime": rfc3339(h.notBefore), "endDateTime": rfc3339(h.expiry),
	}
}

type graphRemovePassword struct {
	KeyID string `json:"keyId"`
}

func (s *Sim) graphRemovePassword(a *account, body any, _ *http.Request) reply {
	return s.graphRemove(a, body.(*graphRemovePassword).KeyID, "No password credential found with keyId.")
}

// graphRemove removes what is listed. What another server has just added counts as missing, as do removed ones.
func (s *Sim) graphRemove(a *account, id, missing string) reply {
	h := a.with(id)
	switch {
	case id == "":
		return violation(http.StatusBadRequest, "keyId is missing")
	case h == nil || !slices.Contains(s.listed(a), h):
		return graphRefusal(http.StatusBadRequest, "Request_BadRequest", missing)
	}
	s.remove(h)
	return reply{status: http.StatusNoContent}
}

type graphAddKey struct {
	KeyCredential *struct {
		Type        string `json:"type"`
		Usage       string `json:"usage"`
		Key         []byte `json:"key"`
		DisplayName string `json:"displayName"`
	} `json:"keyCredential"`
	PasswordCredential *struct{} `json:"passwordCredential"`
	Proof              string    `json:"proof"`
}

func (s *Sim) graphAddKey(a *account, body any, _ *http.Request) reply {
	given := body.(*graphAddKey)
	if refused := s.checkProof(a, given.Proof); refused != nil {
		return *refused
	}
	if given.KeyCredential == nil || given.KeyCredential.Type != "AsymmetricX509Cert" || given.KeyCredential.Usage != "Verify" || given.PasswordCredential != nil {
		return violation(http.StatusBadRequest, "keyCredential must be an AsymmetricX509Cert for Verify, and passwordCredential null")
	}
	certificate, err := x509.ParseCertificate(given.KeyCredential.Key)
	if err != nil {
		return violation(http.StatusBadRequest, "key must be a certificate")
	}
	if _, isRSA := certificate.PublicKey.(*rsa.PublicKey); !isRSA {
		return graphRefusal(http.StatusBadRequest, "Request_BadRequest", "The certificate must have an RSA key.")
	}
	if !s.now().Before(certificate.NotAfter) {
		return graphRefusal(http.StatusBadRequest, "Request_BadRequest", "Key credential end date is invalid.")
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		panic(err)
	}
	name := cmp.Or(given.KeyCredential.DisplayName, certificate.Subject.String())
	return ok(shownKey(a.hold(newEntraCertificate(id, name, certificate.Raw, certificate.PublicKey, certificate.NotBefore, certificate.NotAfter), s.now())))
}

func shownKey(h *heldSecret) map[string]any {
	_, x5t := thumbprints(h.der)
	raw, err := base64.RawURLEncoding.DecodeString(x5t)
	if err != nil {
		panic(err)
	}
	return map[string]any{
		"keyId": h.id, "displayName": h.name, "type": "AsymmetricX509Cert", "usage": "Verify", "key": nil, "customKeyIdentifier": raw,
		"startDateTime": rfc3339(h.notBefore), "endDateTime": rfc3339(h.expiry),
	}
}

type graphRemoveKey struct {
	KeyID string `json:"keyId"`
	Proof string `json:"proof"`
}

func (s *Sim) graphRemoveKey(a *account, body any, _ *http.Request) reply {
	given := body.(*graphRemoveKey)
	if refused := s.checkProof(a, given.Proof); refused != nil {
		return *refused
	}
	return s.graphRemove(a, given.KeyID, "No key credential found with keyId.")
}

// checkProof checks a proof of possession: a JWT that a present and valid certificate of the application signs.
func (s *Sim) checkProof(a *account, proof string) *reply {
	s.secret(proof)
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(s.now), jwt.WithLeeway(assertionLeeway))
	_, err := parser.ParseWithClaims(proof, claims, func(token *jwt.Token) (any, error) { return s.certificateOf(a, token) })
	refused := graphRefusal(http.StatusUnauthorized, "Authentication_MissingOrMalformed", "Access Token missing or malformed.")
	switch {
	case err == nil:
	case errors.Is(err, errForeignKey), errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet):
		return &refused
	default:
		refused = violation(http.StatusUnauthorized, "the proof: "+err.Error())
		return &refused
	}
	audience, _ := claims.GetAudience()
	from, fromErr := claims.GetNotBefore()
	to, _ := claims.GetExpirationTime()
	switch {
	case claims["iss"] != a.objectID:
		return &refused
	case !slices.Equal(audience, []string{graphAudience}):
		refused = violation(http.StatusUnauthorized, "the proof: aud must be "+graphAudience)
	case fromErr != nil || from == nil || to.Sub(from.Time) > maxProof:
		refused = violation(http.StatusUnauthorized, "the proof: exp must be at most 10 minutes after nbf")
	default:
		return nil
	}
	return &refused
}

func (s *Sim) graphShow(a *account, _ any, r *http.Request) reply {
	passwords, keys := []any{}, []any{}
	for _, h := range s.listed(a) {
		if h.key != nil {
			keys = append(keys, shownKey(h))
		} else {
			passwords = append(passwords, shownPassword(h))
		}
	}
	all := map[string]any{"id": a.objectID, "appId": a.id, "displayName": a.name, "passwordCredentials": passwords, "keyCredentials": keys}
	selected := r.URL.Query().Get("$select")
	if selected == "" {
		return ok(all)
	}
	shown := map[string]any{"@odata.context": "https://" + entraGraph + "/v1.0/$metadata#applications/$entity"}
	for _, name := range strings.Split(selected, ",") {
		value, isKnown := all[name]
		if !isKnown {
			return violation(http.StatusBadRequest, "unknown property "+name)
		}
		shown[name] = value
	}
	return ok(shown)
}
