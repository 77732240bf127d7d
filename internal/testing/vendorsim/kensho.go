package vendorsim

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// disuse is the time after its last use at which a refresh token expires.
	disuse = 7 * 24 * time.Hour

	// maxAssertion is the longest lifetime of an assertion that Kensho accepts.
	maxAssertion = time.Hour
)

type kensho struct {
	refreshTokens map[string]refreshToken
	clients       map[string]client
	assertions    map[string]bool   // IDs (jti) of used assertions
	lastToken     string            // last access token of a key pair
	scopes        map[string]string // by access token of a key pair
}

type refreshToken struct {
	product string
	used    time.Time
}

type client struct {
	key   *rsa.PublicKey
	keyID string
}

func newKensho() kensho {
	return kensho{refreshTokens: map[string]refreshToken{}, clients: map[string]client{}, assertions: map[string]bool{}, scopes: map[string]string{}}
}

// AddRefreshToken adds a refresh token of a product, which is named by its segment of the host
// name, such as link-streaming.
func (s *Sim) AddRefreshToken(product, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kensho.refreshTokens[s.secret(token)] = refreshToken{product: product, used: s.now()}
}

// AddClient adds a client of Kensho, whose assertions are verified with key. The kid of an
// assertion must equal keyID; if keyID is empty, an assertion must not have one.
func (s *Sim) AddClient(id string, key *rsa.PublicKey, keyID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kensho.clients[id] = client{key: key, keyID: keyID}
}

// KenshoScope returns the scope of an access token of a key pair, with spaces between its parts.
func (s *Sim) KenshoScope(token string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kensho.scopes[token]
}

// RevokeCredential revokes a refresh token or an API key, or removes a client, at all vendors.
func (s *Sim) RevokeCredential(credential string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kensho.refreshTokens, credential)
	delete(s.kensho.clients, credential)
	delete(s.sitecore.apiKeys, credential)
	delete(s.sitecore.pairs, credential)
	s.oauth.forget(credential)
}

func (s *Sim) kenshoRefresh(product string, r *http.Request) reply {
	parameter, accessName, refreshName := "refresh_token", "access_token", "refresh_token"
	if product == "link-streaming" {
		parameter, accessName, refreshName = "refreshToken", "accessToken", "refreshToken"
	}
	query := r.URL.Query()
	switch {
	case r.Method != http.MethodGet:
		return violation(http.StatusMethodNotAllowed, "must be a GET")
	case len(query) != 1 || len(query[parameter]) != 1:
		return violation(http.StatusBadRequest, "must have one parameter, "+parameter)
	case r.ContentLength > 0:
		return violation(http.StatusBadRequest, "must have no body")
	}
	token := query.Get(parameter)
	known, found := s.kensho.refreshTokens[token]
	if !found || known.product != product || s.now().Sub(known.used) > disuse {
		return refuse(http.StatusUnauthorized, "the refresh token is not accepted")
	}

	now := s.now()
	boundary := now.Add(-s.conduct.HourOffset).Truncate(time.Hour).Add(time.Hour + s.conduct.HourOffset)
	body := map[string]string{accessName: s.issue(s.conduct.JWT || s.conduct.HourOffset != 0, boundary)}
	if s.conduct.Rotate {
		delete(s.kensho.refreshTokens, token)
		token = s.newRefreshToken()
		body[refreshName] = token
	}
	s.kensho.refreshTokens[token] = refreshToken{product: product, used: now}
	return ok(body)
}

func (s *Sim) kenshoToken(tokenURL string, r *http.Request) reply {
	if r.Method != http.MethodPost {
		return violation(http.StatusMethodNotAllowed, "must be a POST")
	}
	for name, value := range map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"} {
		if r.Header.Get(name) != value {
			return violation(http.StatusBadRequest, name+" must be "+value)
		}
	}
	if err := r.ParseForm(); err != nil || r.URL.RawQuery != "" {
		return violation(http.StatusBadRequest, "must have a form in the body, and no query")
	}
	if err := checkForm(r.PostForm); err != nil {
		return violation(http.StatusBadRequest, err.Error())
	}
	if err := s.checkAssertion(r.PostForm.Get("client_assertion"), tokenURL); err != nil {
		switch {
		case errors.Is(err, errUnknownClient), errors.Is(err, jwt.ErrTokenSignatureInvalid):
			// Not a violation: the client or its key may not be registered yet.
			return refuse(http.StatusUnauthorized, "invalid_client")
		case errors.Is(err, jwt.ErrTokenUsedBeforeIssued), errors.Is(err, jwt.ErrTokenExpired):
			// Not a violation: the caller's clock may be wrong.
			return refuse(http.StatusUnauthorized, "invalid_client: the assertion's times are off")
		}
		return violation(http.StatusUnauthorized, err.Error())
	}

	lifetime := s.lifetime()
	token := s.kensho.lastToken
	if left := s.issued[token].Sub(s.now()); s.conduct.Sticky && left > 0 {
		lifetime = left
	} else {
		token = s.issue(s.conduct.JWT, s.now().Add(lifetime))
		s.kensho.lastToken = token
	}
	s.kensho.scopes[token] = r.PostForm.Get("scope")
	body := map[string]any{
		"access_token": token,
		"token_type":   "Bearer",
		"scope":        s.kensho.scopes[token],
	}
	if !s.conduct.Unstated {
		body["expires_in"] = int(lifetime.Seconds())
	}
	return ok(body)
}

func checkForm(form url.Values) error {
	names := make([]string, 0, len(form))
	for name, values := range form {
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("%s must be given once", name)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"client_assertion", "client_assertion_type", "grant_type", "scope"}; !slices.Equal(names, want) {
		return fmt.Errorf("the form must have the fields %s, but has %s", strings.Join(want, ", "), strings.Join(names, ", "))
	}
	switch {
	case form.Get("grant_type") != "client_credentials":
		return errors.New("grant_type must be client_credentials")
	case form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return errors.New("client_assertion_type is wrong")
	}
	for scope := range strings.FieldsSeq(form.Get("scope")) {
		if !strings.HasPrefix(scope, "kensho:app:") {
			return fmt.Errorf("unknown scope %s", scope)
		}
	}
	return nil
}

var errUnknownClient = errors.New("unknown client")

func (s *Sim) checkAssertion(assertion, tokenURL string) error {
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithAudience(tokenURL),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithTimeFunc(s.now),
		jwt.WithLeeway(5*time.Minute),
	)
	_, err := parser.ParseWithClaims(assertion, claims, func(token *jwt.Token) (any, error) {
		id, _ := claims["iss"].(string)
		known, ok := s.kensho.clients[id]
		if !ok {
			return nil, errUnknownClient
		}
		if kid, _ := token.Header["kid"].(string); kid != known.keyID {
			return nil, fmt.Errorf("kid is %q, must be %q", kid, known.keyID)
		}
		return known.key, nil
	})
	if err != nil {
		return err
	}
	iat, err := claims.GetIssuedAt()
	if err != nil || iat == nil {
		return errors.New("iat is missing")
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return err
	}
	if err := s.checkDates(iat.Time); err != nil {
		return err
	}
	id, _ := claims["jti"].(string)
	switch {
	case claims["sub"] != claims["iss"]:
		return errors.New("sub must be the Client ID, as iss")
	case exp.Sub(iat.Time) > maxAssertion || exp.Sub(s.now()) > maxAssertion+5*time.Minute:
		return errors.New("exp must be at most 60 minutes after iat, and at most 60 minutes from now")
	case id == "" || s.kensho.assertions[id]:
		return errors.New("jti must be present and unused")
	}
	s.kensho.assertions[id] = true
	return nil
}
