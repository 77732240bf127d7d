// Package vendorsim simulates the authentication APIs of the vendors as they document them. It
// checks requests as strictly as the vendors do, and its tokens expire when theirs do. Tests
// can make it misbehave.
//
// A Sim is an http.Handler. Unit tests call it in memory through Transport, with the host names
// of the vendors. End-to-end tests and the demo serve it on a loopback port, where the first
// segment of the path is the host of the vendor (see URL).
package vendorsim

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A Call is a request that was received.
type Call struct {
	Method string
	URL    string // with the vendor's own host
	Header http.Header
	Body   string
}

// An About is what an access token is for.
type About struct {
	Subject      string // the sub of the assertion; "" if there was none
	Audience     []string
	Repositories []string

	key string // the fingerprint of the key of Snowflake that signed it
}

// About returns what an access token is for.
func (s *Sim) About(token string) About {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.about[token]
}

// A Sim simulates all vendors. It is safe for concurrent use.
type Sim struct {
	mu         sync.Mutex
	conduct    Conduct
	gateways   map[string]*gateway // by host
	forgetful  bool
	count      int
	calls      []Call
	violations []string
	inFlight   map[*http.Request]bool
	most       int
	secrets    []string
	issued     map[string]time.Time // expiry of each access token by the vendors' clocks; zero if revoked
	lastExpiry time.Time
	next       About            // of the next token of an OAuth 2.0 server
	about      map[string]About // by access token
	kensho     kensho
	sitecore   sitecore
	oauth      oauth
	acme       acme
	akeneo     akeneo
	dowJones   dowJones

	identityProviders map[string]Fetch       // by issuer
	entraApps         map[string]EntraApp    // by tenant and client ID
	googlePools       map[string]GooglePool  // by audience
	googleTokens      map[string]googleToken // of subjects

	gitHubApps     map[string]GitHubApp      // by client ID
	snowflakeUsers map[string]*rsa.PublicKey // by account and user

	rotating rotating
}

// New returns a Sim without any credentials.
func New() *Sim {
	return &Sim{
		gateways: map[string]*gateway{}, inFlight: map[*http.Request]bool{}, issued: map[string]time.Time{}, about: map[string]About{}, kensho: newKensho(), sitecore: newSitecore(), oauth: newOAuth(),
		acme:              acme{keys: map[string]bool{}},
		akeneo:            akeneo{connections: map[string]AkeneoConnection{}, refreshTokens: map[string]akeneoRefreshToken{}},
		dowJones:          dowJones{accounts: map[string]DowJonesAccount{}, sessions: map[string]dowJonesSession{}},
		identityProviders: map[string]Fetch{}, entraApps: map[string]EntraApp{}, googlePools: map[string]GooglePool{}, googleTokens: map[string]googleToken{},
		gitHubApps: map[string]GitHubApp{}, snowflakeUsers: map[string]*rsa.PublicKey{},
		rotating: newRotating(),
	}
}

// Behave sets the behavior for future requests.
func (s *Sim) Behave(c Conduct) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conduct = c
}

// Calls returns the requests so far, including those answered by a fault.
func (s *Sim) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Secrets returns all secrets so far: the credentials that were added, the tokens that were
// issued, and the assertions that were received.
func (s *Sim) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.secrets)
}

// secret records a secret, and returns it.
func (s *Sim) secret(text string) string {
	if !s.forgetful && text != "" {
		s.secrets = append(s.secrets, text)
	}
	return text
}

// newRefreshToken returns a new refresh token, and records it as a secret.
func (s *Sim) newRefreshToken() string { return s.secret(s.opaque("rt-")) }

// opaque returns a random token with a prefix for its kind.
func (s *Sim) opaque(prefix string) string {
	token := prefix + rand.Text() + rand.Text()
	return token + strings.Repeat("x", max(0, s.conduct.TokenSize-len(token)))
}

// Forgetful stops the recording of calls and secrets, to save memory in long simulations.
func (s *Sim) Forgetful() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetful = true
}

// Count returns the number of requests so far.
func (s *Sim) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Issued returns the number of access tokens issued so far, and their latest expiry by the
// caller's clock.
func (s *Sim) Issued() (tokens int, lastExpiry time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.issued), s.lastExpiry.Add(-s.conduct.Skew)
}

// RefreshTokens returns the valid refresh tokens of all vendors except Sitecore.
func (s *Sim) RefreshTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	tokens := slices.Collect(maps.Keys(s.kensho.refreshTokens))
	for token, grant := range s.oauth.tokens {
		if grant.refreshToken == token {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// InFlight returns the number of requests that are in flight now.
func (s *Sim) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inFlight)
}

// Violations returns the requests so far that do not comply with the documentation of their
// vendor, each with the reason. A rejected credential is not a violation.
func (s *Sim) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.violations...)
}

// MostInFlight returns the maximum number of requests that were in flight at once, without those whose
// callers had given up: these end some time later, on a busy machine after the next has begun.
func (s *Sim) MostInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Accepts reports whether an access token is valid now.
func (s *Sim) Accepts(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookAt(token)
	return s.now().Before(s.issued[token])
}

// Expiry returns the expiry of an access token by the caller's clock, or the zero time if no
// vendor issued it or it was revoked.
func (s *Sim) Expiry(token string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookAt(token)
	if expiry := s.issued[token]; !expiry.IsZero() {
		return expiry.Add(-s.conduct.Skew)
	}
	return time.Time{}
}

// ServeHTTP answers as the vendor whose host is called.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	host, path := locate(r)
	called := &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: r.URL.RawQuery}

	s.mu.Lock()
	s.count++
	if form, err := url.ParseQuery(string(body)); err == nil {
		s.secret(form.Get("assertion"))
		s.secret(form.Get("subject_token"))
		s.secret(form.Get("actor_token"))
		s.secret(form.Get("client_assertion"))
		if code := form.Get("code"); code != "" {
			s.oauth.sent[code]++
		}
	}
	if !s.forgetful {
		s.calls = append(s.calls, Call{Method: r.Method, URL: called.String(), Header: r.Header.Clone(), Body: string(body)})
	}
	s.inFlight[r] = true
	waiting := 0
	for request := range s.inFlight {
		if request.Context().Err() == nil {
			waiting++
		}
	}
	s.most = max(s.most, waiting)
	conduct := s.conduct
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.inFlight, r)
	}()

	time.Sleep(conduct.Latency / 2)
	if !s.admit(host, w.Header()) {
		conduct.setDate(w)
		time.Sleep(conduct.Latency / 2)
		throttled(w)
		return
	}
	if conduct.Fault != nil {
		if fault := conduct.Fault(r); fault != nil {
			fault(w, r)
			return
		}
	}
	isLost := conduct.LostAnswers != nil && conduct.LostAnswers(r)
	r.Body = io.NopCloser(bytes.NewReader(body)) // LostAnswers may have read it
	if isLost {
		s.Lose(w, r)
	}
	reply := s.work(host, path, r)
	time.Sleep(conduct.Latency / 4)
	conduct.setDate(w)
	time.Sleep(conduct.Latency / 4)
	reply.write(w)
}

// work handles a request as the vendor does. Only one request is handled at a time.
func (s *Sim) work(host, path string, r *http.Request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := s.answer(host, path, r)
	if reply.violation != "" {
		s.violations = append(s.violations, fmt.Sprintf("%s %s%s: %s", r.Method, host, path, reply.violation))
	}
	return reply
}

func (s *Sim) answer(host, path string, r *http.Request) reply {
	switch product, isKensho := strings.CutSuffix(host, ".kensho.com"); {
	case isKensho && path == "/oauth2/refresh":
		return s.kenshoRefresh(product, r)
	case host == "kensho.okta.com" && path == "/oauth2/default/v1/token":
		return s.kenshoToken("https://"+host+path, r)
	case sitecoreHosts[host] && path == "/account/1/access-token":
		return s.sitecoreToken(r)
	case strings.HasSuffix(host, acmeLoginHost) && path == "/v1/tokens":
		return s.acmeToken(r)
	case host == AcmeAPIHost && path == "/v1/orders":
		return s.acmeOrders(r)
	case strings.HasSuffix(host, akeneoHost) && path == "/api/oauth/v1/token":
		return s.akeneoToken(r)
	case dowJonesHosts[host] && path == "/oauth2/v1/token":
		return s.dowJonesToken(r)
	case isGitHub(host):
		return s.gitHub(path, r)
	}
	if endpoint := s.oauthEndpoint(host, path); endpoint != nil {
		return endpoint(r)
	}
	if api := s.rotating.hosts[host]; api != nil {
		return api(path, r)
	}
	if isFederated(host) {
		return s.federation(host, path, r)
	}
	return violation(http.StatusNotFound, "unknown URL")
}

// now returns the time by the vendors' clocks.
func (s *Sim) now() time.Time { return time.Now().Add(s.conduct.Skew) }

// issue returns a new access token that expires at a time.
func (s *Sim) issue(asJWT bool, expiry time.Time) string {
	token := s.opaque("at-")
	if asJWT {
		expiry = expiry.Truncate(time.Second) // the precision of exp
		var err error
		claims := jwt.MapClaims{"iat": s.now().Unix(), "exp": expiry.Unix(), "jti": rand.Text()}
		if len(s.next.Audience) > 0 {
			claims["aud"] = s.next.Audience
		}
		token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("the vendor's own key"))
		if err != nil {
			panic(err)
		}
	}
	s.record(token, expiry)
	return token
}

// record records an access token and its expiry.
func (s *Sim) record(token string, expiry time.Time) {
	s.issued[s.secret(token)] = expiry
	s.about[token], s.next = s.next, About{}
	if expiry.After(s.lastExpiry) {
		s.lastExpiry = expiry
	}
}

// lifetime returns the lifetime of new access tokens, where the vendor decides.
func (s *Sim) lifetime() time.Duration { return cmp.Or(s.conduct.Lifetime, time.Hour) }
