package vendorsim

import (
	"net/http"
	"slices"
	"time"
)

// oauthRevoke revokes a token (RFC 7009). The revocation of an invalid token succeeds, unless
// OAuthConduct.Gone400 is set.
func (s *Sim) oauthRevoke(a *authServer, r *http.Request) *oauthAnswer {
	form, refused := oauthForm(r)
	if refused != nil {
		return refused
	}
	client, authenticated, refused := s.oauthClient(a, r, form)
	if refused != nil {
		return refused
	}
	if refused := checkKnown(form, "token", "token_type_hint"); refused != nil {
		return refused
	}
	token := form["token"]
	if token == "" {
		return oauthViolation(invalidRequest, "token is missing")
	}
	if hint := form["token_type_hint"]; !slices.Contains([]string{"", "access_token", "refresh_token"}, hint) {
		return oauthViolation(invalidRequest, "unknown token_type_hint %s", hint)
	}

	grant := s.oauth.tokens[token]
	if !authenticated && (grant == nil || len(a.clients[grant.client].AuthMethods) > 0) {
		return oauthViolation(invalidClient, "client authentication is missing")
	}
	if grant != nil && authenticated && (grant.issuer != a.Issuer || grant.client != client.ID) {
		return oauthRefusal(unauthorizedClient, "the token belongs to another client")
	}
	if grant == nil || !s.isGood(grant, token) {
		if s.conduct.OAuth.Gone400 {
			return oauthRefusal(invalidToken, "the token has expired or been revoked")
		}
		return &oauthAnswer{}
	}
	s.revoke(grant, token)
	return &oauthAnswer{}
}

func (s *Sim) isGood(grant *oauthGrant, token string) bool {
	return grant.refreshToken == token || s.now().Before(s.issued[token])
}

// revoke revokes an access token, or a refresh token together with all access tokens of its
// grant (RFC 7009 §2.1).
func (s *Sim) revoke(grant *oauthGrant, token string) {
	s.oauth.revoked = append(s.oauth.revoked, token)
	isRefreshToken := grant.refreshToken == token
	if isRefreshToken || s.conduct.OAuth.RevokeGrant {
		grant.refreshToken = ""
	}
	for _, accessToken := range grant.accessTokens {
		if isRefreshToken || accessToken == token {
			s.issued[accessToken] = time.Time{}
		}
	}
}
