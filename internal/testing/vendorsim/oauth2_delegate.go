package vendorsim

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TokenExchangeGrant is the grant_type of RFC 8693.
const TokenExchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"

// OnBehalfOf is the requested_token_use of Microsoft Entra ID's variant of the JWT bearer grant.
const OnBehalfOf = "on_behalf_of"

// AccessTokenType is the type of the tokens that are exchanged and issued (RFC 8693 §3).
const AccessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// Delegated is what a token is that was issued for a caller's token.
type Delegated struct {
	Subject, Actor string
	Client         string
	Audience       []string
	Scope          []string
}

// Subject returns an access token of a person that a server has issued for a client, as an application would send
// it to the client: a JWT that expires after a time. claims replace its claims; nil removes one.
func (s *Sim) Subject(client OAuthClient, person string, lifetime time.Duration, claims map[string]any) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if client.Issuer == "" {
		client.Issuer = OAuthIssuer
	}
	all := jwt.MapClaims{
		"iss": client.Issuer, "aud": []string{client.ID}, "sub": person, "jti": rand.Text(),
		"iat": s.now().Unix(), "exp": s.now().Add(lifetime).Unix(),
	}
	for name, value := range claims {
		all[name] = value
		if value == nil {
			delete(all, name)
		}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	token.Header["kid"] = "id"
	signed, err := token.SignedString(idTokenKey())
	if err != nil {
		panic(err)
	}
	return s.secret(signed)
}

// DelegatedTo returns for whom a token was issued in exchange for a caller's token.
func (s *Sim) DelegatedTo(token string) (Delegated, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, isDelegated := s.oauth.delegated[token]
	return d, isDelegated
}

// EndSession makes a server refuse tokens of a person from now on.
func (s *Sim) EndSession(person string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oauth.ended[person] = true
}

// subjectOf verifies a caller's token: one of this server for the client that sends it.
func (s *Sim) subjectOf(a *authServer, client OAuthClient, token string) (person string, ok bool) {
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithIssuer(a.Issuer), jwt.WithAudience(client.ID), jwt.WithTimeFunc(s.now),
	).ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return idTokenKey().Public(), nil })
	person, _ = claims["sub"].(string)
	return person, err == nil && person != "" && !s.oauth.ended[person]
}

// exchangeGrant is the grant of RFC 8693.
func (s *Sim) exchangeGrant(a *authServer, client OAuthClient, form map[string]string) *oauthAnswer {
	names := []string{"grant_type", "scope", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "audience", "resource", "requested_token_type"}
	if refused := client.checkParams(form, names); refused != nil {
		return refused
	}
	if !slices.Contains(client.Grants, TokenExchangeGrant) {
		return oauthRefusal(unauthorizedClient, "the client may not use %s", TokenExchangeGrant)
	}
	d := Delegated{Client: client.ID, Audience: strings.Fields(form["audience"]), Scope: strings.Fields(form["scope"])}
	var known bool
	switch {
	case form["subject_token_type"] == "", (form["actor_token"] == "") != (form["actor_token_type"] == ""):
		return oauthViolation(invalidRequest, "each token must have its type, and no other type is given")
	case form["subject_token_type"] != AccessTokenType, form["actor_token"] != "" && form["actor_token_type"] != AccessTokenType:
		return oauthRefusal(invalidRequest, "only access tokens are exchanged")
	case form["requested_token_type"] != "" && form["requested_token_type"] != AccessTokenType:
		return oauthRefusal(invalidRequest, "only access tokens are issued")
	}
	if d.Subject, known = s.subjectOf(a, client, form["subject_token"]); !known {
		return oauthRefusal(invalidRequest, "the subject_token is invalid") // RFC 8693 §2.2.2
	}
	if form["actor_token"] != "" {
		if d.Actor, known = s.subjectOf(a, client, form["actor_token"]); !known {
			return oauthRefusal(invalidRequest, "the actor_token is invalid")
		}
	}
	for _, target := range append(slices.Clone(d.Audience), strings.Fields(form["resource"])...) {
		if !slices.Contains(client.Targets, target) {
			return oauthRefusal("invalid_target", "unknown audience or resource")
		}
	}
	answer := s.delegate(a, client, d)
	if answer.code == "" {
		answer.body["issued_token_type"] = AccessTokenType
	}
	return answer
}

// onBehalfOf is the on-behalf-of flow of Microsoft Entra ID.
func (s *Sim) onBehalfOf(a *authServer, client OAuthClient, form map[string]string) *oauthAnswer {
	if refused := client.checkParams(form, []string{"grant_type", "scope", "assertion", "requested_token_use"}); refused != nil {
		return refused
	}
	d := Delegated{Client: client.ID, Scope: strings.Fields(form["scope"])}
	var known bool
	switch {
	case form["requested_token_use"] != OnBehalfOf:
		return oauthViolation(invalidRequest, "requested_token_use must be on_behalf_of")
	case !slices.Contains(client.Grants, TokenExchangeGrant):
		return oauthRefusal(unauthorizedClient, "AADSTS700016: the application was not found")
	case len(d.Scope) == 0:
		return oauthRefusal(invalidScope, "AADSTS90014: the required field 'scope' is missing")
	}
	if d.Subject, known = s.subjectOf(a, client, form["assertion"]); !known {
		return oauthRefusal(invalidGrant, "AADSTS50013: Assertion failed signature validation")
	}
	return s.delegate(a, client, d)
}

// delegate issues the token.
func (s *Sim) delegate(a *authServer, client OAuthClient, d Delegated) *oauthAnswer {
	if refused := checkScope(d.Scope, client.Scopes); refused != nil {
		return refused
	}
	if len(d.Scope) == 0 {
		d.Scope = client.Scopes
	}
	answer := s.grantToken(client, s.newGrant(a, client, d.Scope), append(slices.Clone(d.Scope), s.conduct.OAuth.MoreScope...))
	token, _ := answer.body["access_token"].(string)
	s.oauth.delegated[token] = d
	return answer
}
