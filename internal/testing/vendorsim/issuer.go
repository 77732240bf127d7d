package vendorsim

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// An Issuer is an identity provider with one key, as Vault is for its plugins.
type Issuer struct{ URL string }

// issuerKeyID is the ID of the key of each Issuer.
const issuerKeyID = "key-of-the-issuer"

// issuerKey is the key of each Issuer, as generation is slow.
var issuerKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// Key returns the private key.
func (Issuer) Key() *rsa.PrivateKey { return issuerKey() }

// KeyID returns the ID of the key.
func (Issuer) KeyID() string { return issuerKeyID }

// Sign returns a token for a subject and an audience.
func (i Issuer) Sign(subject, audience string, ttl time.Duration) string {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": i.URL, "sub": subject, "aud": audience, "iat": now.Unix(), "exp": now.Add(ttl).Unix()})
	token.Header["kid"] = issuerKeyID
	signed, err := token.SignedString(issuerKey())
	if err != nil {
		panic(err)
	}
	return signed
}

// Fetch returns the discovery document or the keys. It is a Fetch.
func (i Issuer) Fetch(url string) (status int, body []byte) {
	var document any
	switch url {
	case i.URL + "/.well-known/openid-configuration":
		document = map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "response_types_supported": []string{"id_token"},
			"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		}
	case i.URL + "/keys":
		document = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: issuerKey().Public(), KeyID: issuerKeyID, Algorithm: "RS256", Use: "sig"}}}
	default:
		return http.StatusNotFound, nil
	}
	body, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return http.StatusOK, body
}
