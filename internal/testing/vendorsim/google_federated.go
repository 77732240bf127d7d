package vendorsim

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	googleSTSHost = "sts.googleapis.com"
	googleIAMHost = "iamcredentials.googleapis.com"

	// GoogleScope is the scope for all of Google Cloud.
	GoogleScope = "https://www.googleapis.com/auth/cloud-platform"
)

// A GooglePool is the provider of a workload identity pool.
type GooglePool struct {
	// Provider is the full name: projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>.
	Provider string

	// Issuer is what the provider trusts. Audiences are those that it allows; none for its own name.
	Issuer    string
	Audiences []string

	// ServiceAccounts are those that a subject may act as.
	ServiceAccounts map[string][]string
}

type googleToken struct {
	subject string
	pool    GooglePool
	expiry  time.Time
}

// AddGooglePool adds the provider of a workload identity pool.
func (s *Sim) AddGooglePool(p GooglePool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.googlePools["//iam.googleapis.com/"+p.Provider] = p
}

// googleSTSRequest is the body of POST /v1/token.
type googleSTSRequest struct {
	GrantType          string `json:"grantType"`
	Audience           string `json:"audience"`
	Scope              string `json:"scope"`
	RequestedTokenType string `json:"requestedTokenType"`
	SubjectToken       string `json:"subjectToken"`
	SubjectTokenType   string `json:"subjectTokenType"`
}

// googleBody decodes a JSON body that has no other members.
func googleBody(r *http.Request, to any) (problem string) {
	if r.Header.Get("Content-Type") != "application/json" {
		return "Content-Type must be application/json"
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		return "the body is not the documented one: " + err.Error()
	}
	return ""
}

// googleSTS is POST /v1/token of the Security Token Service.
func (s *Sim) googleSTS(r *http.Request) reply {
	if wrong := notPost(r); wrong != nil {
		return *wrong
	}
	var asked googleSTSRequest
	if problem := googleBody(r, &asked); problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	const tokenType = "urn:ietf:params:oauth:token-type:"
	switch {
	case r.Header.Get("Authorization") != "":
		return violation(http.StatusBadRequest, "must not have an Authorization header")
	case asked.GrantType != "urn:ietf:params:oauth:grant-type:token-exchange" || asked.RequestedTokenType != tokenType+"access_token":
		return violation(http.StatusBadRequest, "grantType or requestedTokenType is not documented")
	case asked.SubjectTokenType != tokenType+"jwt" && asked.SubjectTokenType != tokenType+"id_token":
		return violation(http.StatusBadRequest, "subjectTokenType is not that of an OpenID Connect provider")
	case !googleScopes(strings.Fields(asked.Scope)):
		return violation(http.StatusBadRequest, "scope must be set, to scopes of Google")
	}
	pool, isKnown := s.googlePools[asked.Audience]
	if !isKnown {
		return reply{status: http.StatusBadRequest, body: entraError("invalid_target", "The target service indicated by the \"audience\" parameters is invalid.")}
	}
	allowed := pool.Audiences
	if len(allowed) == 0 {
		allowed = []string{"//iam.googleapis.com/" + pool.Provider, "https://iam.googleapis.com/" + pool.Provider}
	}
	subject, refused := s.federated(asked.SubjectToken, []Trust{{Issuer: pool.Issuer, Audiences: allowed}}, "RS256", "ES256")
	if refused != nil {
		return refused.reply(http.StatusBadRequest, entraError("invalid_grant", refused.reason))
	}
	lifetime := s.lifetime()
	expiry := s.now().Add(lifetime)
	s.next.Subject = subject
	token := s.issue(false, expiry)
	s.googleTokens[token] = googleToken{subject, pool, expiry}
	return ok(map[string]any{
		"access_token": token, "issued_token_type": tokenType + "access_token", "token_type": "Bearer", "expires_in": int(lifetime.Seconds()),
	})
}

// googleScopes reports whether there are scopes, and all of them are Google's.
func googleScopes(scopes []string) bool {
	isOther := func(scope string) bool { return !strings.HasPrefix(scope, "https://www.googleapis.com/auth/") }
	return len(scopes) > 0 && !slices.ContainsFunc(scopes, isOther)
}

// googleImpersonate is POST /v1/projects/-/serviceAccounts/<account>:generateAccessToken.
func (s *Sim) googleImpersonate(account string, r *http.Request) reply {
	if wrong := notPost(r); wrong != nil {
		return *wrong
	}
	var asked struct {
		Scope    []string `json:"scope"`
		Lifetime string   `json:"lifetime"`
	}
	if problem := googleBody(r, &asked); problem != "" {
		return violation(http.StatusBadRequest, problem)
	}
	lifetime, err := time.ParseDuration(asked.Lifetime)
	bearer, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !isBearer:
		return violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	case err != nil || !strings.HasSuffix(asked.Lifetime, "s") || lifetime <= 0 || lifetime > 12*time.Hour:
		return violation(http.StatusBadRequest, "lifetime must be a number of seconds, such as 3600s")
	case !googleScopes(asked.Scope):
		return violation(http.StatusBadRequest, "scope must be a list of scopes of Google")
	}
	token, isKnown := s.googleTokens[bearer]
	switch {
	case !isKnown || !s.now().Before(token.expiry):
		return googleError(http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
	case !slices.Contains(token.pool.ServiceAccounts[token.subject], account):
		return googleError(http.StatusForbidden, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).")
	}
	expiry := s.now().Add(lifetime).Truncate(time.Second)
	s.next.Subject = account
	return ok(map[string]any{"accessToken": s.issue(s.conduct.JWT, expiry), "expireTime": expiry.UTC().Format(time.RFC3339)})
}

// googleError is an error of Google's APIs.
func googleError(status int, code, message string) reply {
	return reply{status: status, body: map[string]any{"error": map[string]any{"code": status, "status": code, "message": message}}}
}
