package vendorsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// A Fetch reads a URL of an identity provider, as a vendor does without credentials. Its answer is 404 for a URL
// that the provider does not have.
type Fetch func(url string) (status int, body []byte)

// Trust is what a vendor trusts of an identity provider: the tokens of an issuer for one of some audiences. A
// vendor compares all of them exactly.
type Trust struct {
	Issuer    string
	Audiences []string
}

// trusts reports whether a token of an issuer is of this one. An issuer without a port on the loopback
// interface stands for one at any port, as end-to-end tests cannot know it before.
func (t Trust) trusts(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || !isLoopback(issuer) {
		return t.Issuer == issuer
	}
	u.Host = u.Hostname()
	return t.Issuer == issuer || t.Issuer == u.String()
}

// isLoopback reports whether a URL is on the loopback interface.
func isLoopback(address string) bool {
	u, err := url.Parse(address)
	return err == nil && net.ParseIP(u.Hostname()).IsLoopback()
}

// AddIdentityProvider makes all vendors read the documents of an issuer with fetch.
func (s *Sim) AddIdentityProvider(issuer string, fetch Fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identityProviders[issuer] = fetch
}

// isFederated reports whether a host takes tokens of identity providers.
func isFederated(host string) bool {
	return slices.Contains([]string{entraHost, googleSTSHost, googleIAMHost}, host)
}

// hasFederation reports whether a vendor that takes tokens of identity providers has a customer.
func (s *Sim) hasFederation() bool { return len(s.entraApps)+len(s.googlePools) > 0 }

// federation answers as a vendor that takes tokens of identity providers.
func (s *Sim) federation(host, path string, r *http.Request) reply {
	tenant, isEntra := strings.CutSuffix(strings.TrimPrefix(path, "/"), "/oauth2/v2.0/token")
	account, isAccount := strings.CutSuffix(strings.TrimPrefix(path, "/v1/projects/-/serviceAccounts/"), ":generateAccessToken")
	switch {
	case host == entraHost && isEntra:
		return s.entraFederated(tenant, r)
	case host == googleSTSHost && path == "/v1/token":
		return s.googleSTS(r)
	case host == googleIAMHost && isAccount:
		return s.googleImpersonate(account, r)
	}
	return violation(http.StatusNotFound, "unknown URL")
}

const (
	// maxFederatedLifetime is the longest time from iat to exp, as Google has it.
	maxFederatedLifetime = 24 * time.Hour

	// maxFederatedSubject is the longest subject, as Google has it.
	maxFederatedSubject = 127
)

// A federatedError is why a vendor refuses a token of an identity provider.
type federatedError struct {
	reason string

	// isOurs is whether no configuration could cause it.
	isOurs bool
}

func (e *federatedError) Error() string { return e.reason }

func ours(format string, values ...any) *federatedError {
	return &federatedError{fmt.Sprintf(format, values...), true}
}

func theirs(format string, values ...any) *federatedError {
	return &federatedError{fmt.Sprintf(format, values...), false}
}

// federated verifies a token of an identity provider, by the keys that its discovery document leads to, and
// returns its subject.
func (s *Sim) federated(token string, trusted []Trust, algorithms ...string) (subject string, refused *federatedError) {
	s.secret(token)
	var trust Trust
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(s.now), jwt.WithLeeway(assertionLeeway))
	_, err := parser.ParseWithClaims(token, claims, func(parsed *jwt.Token) (any, error) {
		issuer, _ := claims["iss"].(string)
		i := slices.IndexFunc(trusted, func(one Trust) bool { return one.trusts(issuer) })
		if i < 0 {
			return nil, theirs("the issuer %q is not trusted", issuer)
		}
		trust = trusted[i]
		id, _ := parsed.Header["kid"].(string)
		if id == "" {
			return nil, ours("the token has no kid")
		}
		return s.publishedKey(issuer, id)
	})
	var known *federatedError
	switch {
	case err == nil:
	case errors.As(err, &known):
		return "", known
	case mayHappen(err):
		return "", theirs("%s", err)
	default:
		return "", ours("%s", err)
	}
	issued, err := claims.GetIssuedAt()
	if err != nil || issued == nil {
		return "", ours("the token has no iat")
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires.Sub(issued.Time) > maxFederatedLifetime {
		return "", ours("the token is valid for more than a day")
	}
	audience, err := claims.GetAudience()
	if err != nil || len(audience) != 1 {
		return "", ours("the token must have one aud")
	}
	if !slices.Contains(trust.Audiences, audience[0]) {
		return "", theirs("the audience %q is not trusted", audience[0])
	}
	subject, _ = claims["sub"].(string)
	if subject == "" || len(subject) > maxFederatedSubject {
		return "", ours("the token has no sub, or one that is too long")
	}
	return subject, nil
}

// publishedKey returns a key of an issuer, as OpenID Connect Discovery §4 has it.
func (s *Sim) publishedKey(issuer, id string) (any, error) {
	fetch := s.identityProviders[issuer]
	if fetch == nil && isLoopback(issuer) {
		fetch = fetchOverHTTP
	}
	if fetch == nil {
		return nil, theirs("nothing answers at the issuer %s", issuer)
	}
	var document struct {
		Issuer  string   `json:"issuer"`
		JWKSURI string   `json:"jwks_uri"`
		Types   []string `json:"response_types_supported"`
		Subject []string `json:"subject_types_supported"`
		Signing []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := fetchJSON(fetch, issuer+"/.well-known/openid-configuration", &document); err != nil {
		return nil, err
	}
	switch {
	case document.Issuer != issuer:
		return nil, ours("the discovery document is that of the issuer %q, not of %q", document.Issuer, issuer)
	case !strings.HasPrefix(document.JWKSURI, "https://") && !isLoopback(document.JWKSURI):
		return nil, ours("jwks_uri must be an https URL, not %q", document.JWKSURI)
	case len(document.Types) == 0 || len(document.Subject) == 0 || len(document.Signing) == 0:
		return nil, ours("the discovery document lacks a required member")
	}
	var set jose.JSONWebKeySet
	if err := fetchJSON(fetch, document.JWKSURI, &set); err != nil {
		return nil, err
	}
	keys := set.Key(id)
	switch {
	case len(keys) == 0:
		return nil, theirs("the issuer has no key %q", id)
	case !keys[0].IsPublic():
		return nil, ours("the issuer publishes a private key")
	}
	return keys[0].Key, nil
}

func fetchJSON(fetch Fetch, url string, to any) error {
	status, body := fetch(url)
	if status != http.StatusOK {
		return theirs("%s: status %d", url, status)
	}
	if err := json.Unmarshal(body, to); err != nil {
		return ours("%s: %s", url, err)
	}
	return nil
}

// fetchOverHTTP is a Fetch of a server on the loopback interface.
func fetchOverHTTP(url string) (status int, body []byte) {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(url) //nolint:noctx // it has a timeout
	if err != nil {
		return http.StatusBadGateway, []byte(err.Error())
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20)); err != nil {
		return http.StatusBadGateway, []byte(err.Error())
	}
	return resp.StatusCode, body
}

// reply returns the answer to a request with the token.
func (e *federatedError) reply(status int, body any) reply {
	r := reply{status: status, body: body}
	if e.isOurs {
		r.violation = e.reason
	}
	return r
}
