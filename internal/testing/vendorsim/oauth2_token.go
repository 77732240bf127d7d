package vendorsim

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// grantParams are the required parameters of each grant.
var grantParams = map[string][]string{
	RefreshTokenGrant:       {"refresh_token"},
	DeviceCodeGrant:         {"device_code"},
	AuthorizationCodeGrant:  {"code", "redirect_uri", "code_verifier"},
	ClientCredentialsGrant:  nil,
	JWTBearerGrant:          {"assertion"},
	AccountCredentialsGrant: {"account_id"},
	TokenExchangeGrant:      {"subject_token"},
}

func (s *Sim) oauthToken(a *authServer, r *http.Request) *oauthAnswer {
	form, refused := oauthForm(r)
	if refused != nil {
		return refused
	}
	kind := form["grant_type"]
	params, known := grantParams[kind]
	client, found, refused := s.oauthClient(a, r, form)
	switch {
	case refused != nil:
		return refused
	case kind == "":
		return oauthViolation(invalidRequest, "grant_type is missing")
	case !known:
		return oauthRefusal(unsupportedGrantType, "unknown grant_type %s", kind)
	case !found && kind != JWTBearerGrant:
		return oauthViolation(invalidClient, "client authentication is missing")
	}
	for _, name := range params {
		if form[name] == "" {
			return oauthViolation(invalidRequest, "%s is missing", name)
		}
	}
	switch {
	case kind == TokenExchangeGrant:
		return s.exchangeGrant(a, client, form)
	case kind == JWTBearerGrant && found && form["requested_token_use"] != "":
		return s.onBehalfOf(a, client, form)
	}
	var scope, subject string
	if kind == JWTBearerGrant {
		if client, scope, subject, refused = s.assertedGrant(a, r, form, client); refused != nil {
			return refused
		}
	} else {
		scope = form["scope"]
	}
	if refused := client.checkParams(form, slices.Concat(params, []string{"grant_type", "scope"})); refused != nil {
		return refused
	}
	if !slices.Contains(client.Grants, kind) {
		return oauthRefusal(unauthorizedClient, "the client may not use %s", kind)
	}
	switch kind {
	case AuthorizationCodeGrant:
		return s.codeGrant(a, client, form)
	case DeviceCodeGrant:
		return s.deviceGrant(a, client, form)
	}
	s.next = About{Audience: client.audience(form), Subject: subject}
	asked := strings.Fields(scope)
	if kind == RefreshTokenGrant {
		return s.refreshGrant(a, client, form["refresh_token"], asked)
	}
	if client.OneScope && len(asked) != 1 {
		return oauthRefusal(invalidScope, "the request must have one scope, and has %d", len(asked))
	}
	if refused := checkScope(asked, client.Scopes); refused != nil {
		return refused
	}
	if len(asked) == 0 {
		asked = client.Scopes
	}
	if kind == ClientCredentialsGrant {
		return s.clientGrant(a, client, asked)
	}
	return s.grantToken(client, s.newGrant(a, client, asked), asked)
}

func (c OAuthClient) checkParams(form map[string]string, standard []string) *oauthAnswer {
	for name, value := range c.Params {
		if form[name] != value {
			return oauthRefusal(invalidRequest, "%s is missing or wrong", name)
		}
		standard = append(standard, name)
	}
	for name, allowed := range map[string][]string{"audience": c.Audiences, "resource": c.Resources} {
		if len(allowed) == 0 {
			continue
		}
		standard = append(standard, name)
		for _, one := range strings.Split(form[name], "\n") {
			if one != "" && !slices.Contains(allowed, one) {
				return oauthRefusal("invalid_target", "%s %s is not allowed", name, one) // RFC 8707 §2
			}
		}
	}
	return checkKnown(form, standard...)
}

// audience returns the aud of a token.
func (c OAuthClient) audience(form map[string]string) []string {
	asked := strings.Fields(form["audience"] + "\n" + form["resource"])
	if (len(asked) == 0 || c.IgnoreAudience) && len(c.Audiences) > 0 {
		return c.Audiences[:1]
	}
	return asked
}

func checkScope(asked, allowed []string) *oauthAnswer {
	for _, scope := range asked {
		if !slices.Contains(allowed, scope) {
			return oauthRefusal(invalidScope, "scope %s is not allowed", scope)
		}
	}
	return nil
}

// assertedGrant verifies the assertion of a JWT bearer grant, and returns its client and scope
// (RFC 7523 §2.1).
func (s *Sim) assertedGrant(a *authServer, r *http.Request, form map[string]string, authenticated OAuthClient) (client OAuthClient, scope, subject string, refused *oauthAnswer) {
	client, claims, refused := s.parseAssertion(a, form["assertion"], func(c OAuthClient) []string {
		if c.Audience != "" {
			return []string{c.Audience}
		}
		return []string{asSeen(r, a.TokenURL)}
	})
	if refused != nil {
		refused.code = invalidGrant
		return OAuthClient{}, "", "", refused
	}
	subject, _ = claims["sub"].(string)
	id, _ := claims["jti"].(string)
	claimed, _ := claims["scope"].(string)
	switch {
	case authenticated.ID == "" && len(client.AuthMethods) > 0:
		return OAuthClient{}, "", "", oauthRefusal(invalidClient, "the client must authenticate")
	case authenticated.ID != "" && authenticated.ID != client.ID:
		return OAuthClient{}, "", "", oauthRefusal(invalidGrant, "the assertion belongs to another client")
	case !slices.Contains(client.Subjects, subject) && subject != client.Subject && (client.Subject != "" || subject != client.ID):
		return OAuthClient{}, "", "", oauthRefusal(invalidGrant, "wrong sub %q in the assertion", subject)
	case id != "" && a.assertions[id]:
		return OAuthClient{}, "", "", oauthViolation(invalidGrant, "jti must be unused")
	case client.ScopeInAssertion && form["scope"] != "", !client.ScopeInAssertion && claimed != "":
		return OAuthClient{}, "", "", oauthViolation(invalidRequest, "scope must be in the assertion or in the form, as the vendor documents")
	case client.ScopeInAssertion && claimed == "":
		return OAuthClient{}, "", "", oauthRefusal(invalidScope, "the assertion has no scope")
	}
	if id != "" {
		a.assertions[id] = true
	}
	if client.ScopeInAssertion {
		return client, claimed, subject, nil
	}
	return client, form["scope"], subject, nil
}

// refreshGrant performs the refresh token grant. The use of a rotated refresh token revokes the
// current one too, because one of the two may have leaked (RFC 9700 §4.14.2).
func (s *Sim) refreshGrant(a *authServer, client OAuthClient, token string, asked []string) *oauthAnswer {
	grant := s.oauth.tokens[token]
	_, isAccessToken := s.issued[token]
	if grant == nil || isAccessToken || grant.issuer != a.Issuer || grant.client != client.ID {
		return oauthRefusal(invalidGrant, "unknown refresh token")
	}
	if grant.refreshToken != token {
		grant.refreshToken = ""
		return oauthRefusal(invalidGrant, "the refresh token has been used or revoked")
	}
	if expiry := grant.refreshExpiry; !expiry.IsZero() && !s.now().Before(expiry) {
		return oauthRefusal(invalidGrant, "the refresh token has expired")
	}
	if refused := checkScope(asked, grant.scope); refused != nil {
		return refused
	}
	if len(asked) == 0 {
		asked = grant.scope
	}
	answer := s.grantToken(client, grant, asked)
	if client.Rotate {
		// The new refresh token keeps the scope of the old one (RFC 6749 §6).
		grant.refreshToken = s.newRefreshToken()
		s.oauth.tokens[grant.refreshToken] = grant
		answer.body["refresh_token"] = grant.refreshToken
	}
	return answer
}

func (s *Sim) clientGrant(a *authServer, client OAuthClient, scope []string) *oauthAnswer {
	key := client.ID + " " + strings.Join(scope, " ")
	if last := a.last[key]; s.conduct.Sticky && s.now().Before(s.issued[last]) {
		return s.tokenAnswer(last, scope)
	}
	grant := s.newGrant(a, client, scope)
	if s.conduct.OAuth.SingleToken {
		grant.accessTokens = append(grant.accessTokens, a.last[key])
	}
	answer := s.grantToken(client, grant, scope)
	a.last[key], _ = answer.body["access_token"].(string)
	return answer
}

func (s *Sim) newGrant(a *authServer, client OAuthClient, scope []string) *oauthGrant {
	return &oauthGrant{issuer: a.Issuer, client: client.ID, scope: scope}
}

func (s *Sim) grantToken(client OAuthClient, grant *oauthGrant, scope []string) *oauthAnswer {
	if s.conduct.OAuth.SingleToken {
		for _, token := range grant.accessTokens {
			s.issued[token] = time.Time{}
		}
	}
	token := s.issue(s.conduct.JWT, client.expiry(s.now()))
	grant.accessTokens = append(grant.accessTokens, token)
	s.oauth.tokens[token] = grant
	return s.tokenAnswer(token, scope)
}

// expiry returns when an access token expires that the client gets now.
func (c OAuthClient) expiry(now time.Time) time.Time {
	if c.Period == 0 {
		return now.Add(cmp.Or(c.Lifetime, time.Hour))
	}
	// expires_in has whole seconds, so that a caller returns up to a second before the end of a period.
	const early = 2 * time.Second
	return now.Add(early).Truncate(c.Period).Add(c.Period)
}

func (s *Sim) tokenAnswer(token string, scope []string) *oauthAnswer {
	body := map[string]any{"access_token": token, "token_type": "Bearer"}
	if len(scope) > 0 {
		body["scope"] = strings.Join(scope, " ")
	}
	switch left := int(s.issued[token].Sub(s.now()).Seconds()); {
	case s.conduct.Unstated:
	case s.conduct.OAuth.Stringly:
		body["expires_in"] = strconv.Itoa(left)
	default:
		body["expires_in"] = left
	}
	return &oauthAnswer{body: body}
}
