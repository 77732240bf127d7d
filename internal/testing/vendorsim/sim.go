// Package vendorsim simulates the vendors' authentication APIs, exact to what they
// document: it checks what it is sent as strictly as they do, issues tokens that
// die when theirs do, and can be told to misbehave.
//
// A Sim is an http.Handler. Unit tests call it in memory through Transport, under
// the vendors' own host names; end-to-end tests and the demo serve it on a loopback
// port, where the first segment of the path stands for the host (see URL).
package vendorsim

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Conduct is how the vendors behave, whatever they are asked.
type Conduct struct {
	// Latency is how long an answer takes; the token is made half-way, and the Date
	// written half-way from there.
	Latency time.Duration

	// Skew is how far the vendors' clocks are ahead of the caller's.
	Skew time.Duration

	// NoDate leaves the Date header out, and Date writes another time into it than the
	// vendors' clocks show.
	NoDate bool
	Date   time.Time

	// Fault, if it returns a handler, has that answer in the vendor's place.
	Fault func(*http.Request) http.HandlerFunc

	// JWT makes the access tokens of Kensho and of OAuth 2.0 servers JWTs. They are
	// opaque otherwise.
	JWT bool

	// HourOffset has Kensho's access tokens of a refresh token expire so long after the full
	// hour, and be JWTs, which state that: no rule of Kensho's is such.
	HourOffset time.Duration

	// StrictDates has assertions refused that are dated in the future, by however little,
	// or over 10 seconds ago.
	StrictDates bool

	// Rotate has a refresh at Kensho answer with a new refresh token, and the old
	// one die.
	Rotate bool

	// KeyPairLifetime is how long a key pair's access tokens live (1 h if zero),
	// and Unstated leaves that out of the answer, of OAuth 2.0 servers too.
	KeyPairLifetime time.Duration
	Unstated        bool

	// Sticky has a key pair's exchange, and any client credentials grant, answer with
	// the last token until that dies, and count its lifetime down to 0.
	Sticky bool

	// TokenSize, if it is not zero, is how many bytes long new tokens are at the least,
	// but for JWTs.
	TokenSize int

	// OAuth is what OAuth 2.0 servers do beside the standards.
	OAuth OAuthConduct
}

// A Call is a request as it came in.
type Call struct {
	Method string
	URL    string // as the caller had it, under the vendor's own host
	Header http.Header
	Body   string
}

// Sim is the vendors.
type Sim struct {
	mu         sync.Mutex
	conduct    Conduct
	forgetful  bool
	count      int
	calls      []Call
	violations []string
	inFlight   int
	most       int
	secrets    []string
	issued     map[string]time.Time // access tokens, and their death by the vendors' clocks; zero if revoked
	lastDeath  time.Time
	kensho     kensho
	sitecore   sitecore
	oauth      oauth
}

// New makes vendors that know no customer yet.
func New() *Sim {
	return &Sim{issued: map[string]time.Time{}, kensho: newKensho(), sitecore: newSitecore(), oauth: newOAuth()}
}

// Behave changes how the vendors behave from now on.
func (s *Sim) Behave(c Conduct) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conduct = c
}

// Calls are the requests so far, faulty answers included.
func (s *Sim) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Secrets are what must not be seen anywhere else: all credentials that the vendors have
// known, all tokens that they have issued, and all assertions that they have been sent.
func (s *Sim) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.secrets)
}

// secret notes one, and returns it.
func (s *Sim) secret(text string) string {
	if !s.forgetful && text != "" {
		s.secrets = append(s.secrets, text)
	}
	return text
}

// newRefreshToken makes a refresh token.
func (s *Sim) newRefreshToken() string { return s.secret(s.opaque("rt-")) }

// opaque makes a token of which nobody can tell anything but its kind, by the prefix.
func (s *Sim) opaque(prefix string) string {
	token := prefix + rand.Text() + rand.Text()
	return token + strings.Repeat("x", max(0, s.conduct.TokenSize-len(token)))
}

// Forgetful keeps no record of calls and of secrets, for long simulations.
func (s *Sim) Forgetful() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetful = true
}

// Count is how many requests there have been so far.
func (s *Sim) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Issued is how many access tokens have been issued so far, and when the last of
// them to die dies, by the caller's clock.
func (s *Sim) Issued() (tokens int, lastDeath time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.issued), s.lastDeath.Add(-s.conduct.Skew)
}

// RefreshTokens are those that the vendors take now, but for Sitecore's.
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

// InFlight is how many requests there are now.
func (s *Sim) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight
}

// Violations are the requests so far that no documentation allows, with what was
// wrong with each. A refused credential is none.
func (s *Sim) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.violations...)
}

// MostInFlight is how many requests there were at once, at the most.
func (s *Sim) MostInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Accepts is whether a vendor's API would take the access token now.
func (s *Sim) Accepts(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now().Before(s.issued[token])
}

// Death is when an access token dies, by the caller's clock; zero if no vendor
// issued it, or it was revoked.
func (s *Sim) Death(token string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if death := s.issued[token]; !death.IsZero() {
		return death.Add(-s.conduct.Skew)
	}
	return time.Time{}
}

// URL is where a vendor's URL is to be found on a Sim that is served at base.
func URL(base, vendor string) string {
	return strings.TrimRight(base, "/") + "/" + strings.TrimPrefix(vendor, "https://")
}

// ServeHTTP answers as the vendor would whose host was called.
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
		s.secret(form.Get("client_assertion"))
	}
	if !s.forgetful {
		s.calls = append(s.calls, Call{Method: r.Method, URL: called.String(), Header: r.Header.Clone(), Body: string(body)})
	}
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	conduct := s.conduct
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inFlight--
	}()

	time.Sleep(conduct.Latency / 2)
	if conduct.Fault != nil {
		if fault := conduct.Fault(r); fault != nil {
			fault(w, r)
			return
		}
	}
	reply := s.work(host, path, r)
	time.Sleep(conduct.Latency / 4)
	if conduct.NoDate {
		w.Header()["Date"] = nil
	} else {
		date := conduct.Date
		if date.IsZero() {
			date = time.Now().Add(conduct.Skew)
		}
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
	}
	time.Sleep(conduct.Latency / 4)
	reply.write(w)
}

// work is what the vendor does for a request, one at a time.
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
	}
	if endpoint := s.oauthEndpoint(host, path); endpoint != nil {
		return endpoint(r)
	}
	return violation(http.StatusNotFound, "no vendor has such a URL")
}

// locate is the vendor's host and path that a request is for.
func locate(r *http.Request) (host, path string) {
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil || !net.ParseIP(name).IsLoopback() {
		return r.Host, r.URL.Path
	}
	host, path, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if host == wellKnown {
		// Such a path begins there, whatever the issuer's is (RFC 8414 §3.1).
		suffix, issuer, _ := strings.Cut(path, "/")
		host, path, _ = strings.Cut(issuer, "/")
		path = strings.TrimSuffix(wellKnown+"/"+suffix+"/"+path, "/")
	}
	return host, "/" + path
}

// callerURL is the URL as the caller wrote it.
func callerURL(r *http.Request) string {
	host, path := locate(r)
	return asSeen(r, "https://"+host+path)
}

// asSeen is a vendor's URL as it looks to who sent a request.
func asSeen(r *http.Request, vendor string) string {
	if host, _ := locate(r); host == r.Host {
		return vendor
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return URL(scheme+r.Host, vendor)
}

// now is the time by the vendors' clocks.
func (s *Sim) now() time.Time { return time.Now().Add(s.conduct.Skew) }

// issue makes an access token that lives until death.
func (s *Sim) issue(asJWT bool, death time.Time) string {
	token := s.opaque("at-")
	if asJWT {
		death = death.Truncate(time.Second) // as exp has it
		var err error
		token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"iat": s.now().Unix(), "exp": death.Unix(), "jti": rand.Text(),
		}).SignedString([]byte("the vendor's own key"))
		if err != nil {
			panic(err)
		}
	}
	s.issued[s.secret(token)] = death
	if death.After(s.lastDeath) {
		s.lastDeath = death
	}
	return token
}

// reply is an answer in JSON. A violation says what no caller should have sent.
type reply struct {
	status    int
	header    map[string]string
	body      any // nil for none
	violation string
}

func ok(body any) reply { return reply{status: http.StatusOK, body: body} }

func refuse(status int, reason string) reply {
	return reply{status: status, body: map[string]string{"error": reason}}
}

func violation(status int, text string) reply {
	return reply{status: status, body: map[string]string{"error": text}, violation: text}
}

func (r reply) write(w http.ResponseWriter) {
	for name, value := range r.header {
		w.Header().Set(name, value)
	}
	if r.body == nil {
		w.WriteHeader(r.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	// A caller who has gone away is no concern of the vendor's.
	_ = json.NewEncoder(w).Encode(r.body)
}
