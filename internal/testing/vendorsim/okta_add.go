package vendorsim

import (
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

type oktaSecret struct {
	ClientSecret string `json:"client_secret"`
	Status       string `json:"status"`
}

// An oktaJWK is a public key (RFC 7517) with a status.
type oktaJWK struct {
	Status string `json:"status"`
	KTY    string `json:"kty"`
	KID    string `json:"kid"`
	Alg    string `json:"alg"`
	Use    string `json:"use"`
	N      string `json:"n"`
	E      string `json:"e"`
	X      string `json:"x"`
	Y      string `json:"y"`
	CRV    string `json:"crv"`
}

// isOktaStatus reports whether a status is one of a secret.
func isOktaStatus(status string) bool {
	return slices.Contains([]string{"", "ACTIVE", "INACTIVE"}, status)
}

// oktaID returns an ID of a new secret.
func (a *account) oktaID(prefix string) string {
	return a.short(prefix, fmt.Sprintf("%s %d", prefix, len(a.secrets)))
}

func (s *Sim) oktaAddSecret(a *account, given oktaSecret) reply {
	s.secret(given.ClientSecret)
	switch {
	case !isOktaStatus(given.Status) || given.ClientSecret != "" && (len(given.ClientSecret) < 14 || len(given.ClientSecret) > 100):
		return violation(http.StatusBadRequest, "status must be ACTIVE or INACTIVE, and client_secret have 14 to 100 characters")
	case a.kind != "okta/client_secret":
		return oktaRefusal(http.StatusBadRequest, "E0000001", "Api validation failed: the app authenticates with a key")
	case len(a.stored()) >= maxOktaSecrets:
		return oktaRefusal(http.StatusBadRequest, "E0000001", "Api validation failed: the app has two client secrets already")
	}
	h := &heldSecret{id: a.oktaID("ocs"), text: given.ClientSecret}
	if h.text == "" {
		h.text = s.secret(s.opaque(""))
	}
	return s.oktaAdded(a, h, given.Status)
}

// oktaAdded adds a secret or a key, with a status.
func (s *Sim) oktaAdded(a *account, h *heldSecret, status string) reply {
	a.hold(h, s.now())
	if status == "INACTIVE" {
		h.since = time.Time{}
	}
	return reply{status: http.StatusCreated, body: h.oktaShown()}
}

func (s *Sim) oktaAddKey(a *account, given oktaJWK) reply {
	status := given.Status
	given.Status = ""
	text, err := json.Marshal(given)
	if err != nil {
		panic(err) // of texts
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		panic(err)
	}
	maps.DeleteFunc(members, func(_ string, value any) bool { return value == "" })
	text, err = json.Marshal(members)
	if err != nil {
		panic(err)
	}
	var key jose.JSONWebKey
	switch err := json.Unmarshal(text, &key); {
	case err != nil || !key.IsPublic() || given.KTY != "RSA" && given.KTY != "EC" || cmp.Or(given.Use, "sig") != "sig" || !isOktaStatus(status):
		return violation(http.StatusBadRequest, "must be a JWK of a public RSA or EC key for sig")
	case given.KID == "":
		return violation(http.StatusBadRequest, "kid is missing")
	case a.kind == "okta/client_secret":
		return oktaRefusal(http.StatusBadRequest, "E0000001", "Api validation failed: the app authenticates with a client secret")
	case slices.ContainsFunc(a.stored(), func(h *heldSecret) bool { return h.kid == given.KID }):
		return oktaRefusal(http.StatusBadRequest, "E0000001", "Api validation failed: the kid is not unique")
	}
	return s.oktaAdded(a, &heldSecret{id: a.oktaID("pks"), key: key.Key, kid: given.KID, alg: given.Alg, shown: members}, status)
}

// oktaShown returns what Okta's API shows of a secret or a key.
func (h *heldSecret) oktaShown() map[string]any {
	shown := maps.Clone(h.shown)
	if shown == nil {
		sum := sha256.Sum256([]byte(h.text))
		shown = map[string]any{"client_secret": h.text, "secret_hash": base64.RawURLEncoding.EncodeToString(sum[:16])}
	}
	shown["id"], shown["created"], shown["lastUpdated"], shown["status"] = h.id, rfc3339(h.created), rfc3339(h.created), "INACTIVE"
	if h.isActive() {
		shown["status"] = "ACTIVE"
	}
	return shown
}

// jwkOf returns the JWK of a public key.
func jwkOf(key crypto.PublicKey, kid string) map[string]any {
	own := jose.JSONWebKey{Key: key, KeyID: kid, Use: "sig"}
	if _, isRSA := key.(*rsa.PublicKey); isRSA {
		own.Algorithm = "RS256"
	}
	text, err := own.MarshalJSON()
	if err != nil {
		panic(err) // of a public key
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		panic(err)
	}
	return members
}
