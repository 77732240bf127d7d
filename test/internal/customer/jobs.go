package customer

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// The issuers of the identity tokens of jobs.
const (
	GitHub = "https://token.actions.githubusercontent.com"
	GitLab = "https://gitlab.com"
)

// jobKeys are the paths of the public keys, by the host of the issuer.
var jobKeys = map[string]string{
	"token.actions.githubusercontent.com": "/.well-known/jwks",
	"gitlab.com":                          "/oauth/discovery/keys",
}

// A jobIssuer is a CI system that gives the customer's jobs identity tokens.
type jobIssuer struct{ key *rsa.PrivateKey }

func newJobIssuer() (*jobIssuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return &jobIssuer{key}, err
}

// metadata is the path of the configuration of an issuer.
const metadata = "/.well-known/openid-configuration"

// isOfJobIssuer reports whether a request is for the issuer of the identity tokens of jobs. Its host may be a vendor, too.
func isOfJobIssuer(r *http.Request) bool {
	keys := jobKeys[r.Host]
	return keys != "" && (r.URL.Path == metadata || r.URL.Path == keys)
}

// JobToken returns the identity token of a job of the customer, with these claims besides those of every token.
func (c *Customer) JobToken(issuer, audience string, claims map[string]any) (string, error) {
	now := time.Now()
	all := jwt.MapClaims{"iss": issuer, "aud": audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(all, claims)
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, all)
	token.Header["kid"] = "jobs"
	return token.SignedString(c.jobs.key)
}

// ServeHTTP answers as the issuers at the hosts of jobKeys do, with the configuration or the public keys.
func (i *jobIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	issuer, keys := "https://"+r.Host, jobKeys[r.Host]
	var answer any = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: "jobs", Algorithm: "RS256", Use: "sig"}}}
	if r.URL.Path == metadata {
		answer = map[string]any{
			"issuer": issuer, "jwks_uri": issuer + keys, "response_types_supported": []string{"id_token"},
			"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(fmt.Sprintf("the answer is not JSON: %s", err))
	}
}
