package vendorsim

import (
	"net/http"
	"slices"
)

// assertionType is the client_assertion_type of a JWT (RFC 7523 §2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// oauthClient authenticates the client of a request. found is false if the request has neither
// client authentication nor a client_id.
func (s *Sim) oauthClient(a *authServer, r *http.Request, form map[string]string) (client OAuthClient, found bool, refused *oauthAnswer) {
	var used []string
	if r.Header.Get("Authorization") != "" {
		used = append(used, SecretBasic)
	}
	if form["client_secret"] != "" {
		used = append(used, SecretPost)
	}
	if form["client_assertion"] != "" || form["client_assertion_type"] != "" {
		used = append(used, PrivateKeyJWT)
	}
	switch {
	case len(used) > 1:
		return OAuthClient{}, false, oauthViolation(invalidRequest, "more than one client authentication method: %q", used)
	case len(used) == 0 && form["client_id"] == "":
		return OAuthClient{}, false, nil
	case len(used) == 0:
		used = []string{None}
	}

	method, secret := used[0], ""
	switch method {
	case SecretBasic:
		client, secret, refused = a.basicClient(r, form, s.conduct.OAuth.PlainBasic)
	case PrivateKeyJWT:
		client, refused = s.assertingClient(a, r, form)
	default:
		client, secret = a.clients[form["client_id"]], form["client_secret"]
	}
	switch {
	case refused != nil:
	case client.ID == "":
		refused = oauthRefusal(invalidClient, "unknown client")
	case !slices.Contains(client.AuthMethods, method):
		refused = oauthRefusal(invalidClient, "the client may not authenticate with %s", method)
	case (method == SecretBasic || method == SecretPost) && !s.knows(a, client, secret):
		refused = oauthRefusal(invalidClient, "wrong client secret")
	}
	if refused != nil {
		refused.basic = method == SecretBasic
		return OAuthClient{}, false, refused
	}
	return client, true, nil
}

func (a *authServer) basicClient(r *http.Request, form map[string]string, isPlain bool) (client OAuthClient, secret string, refused *oauthAnswer) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		return OAuthClient{}, "", oauthViolation(invalidRequest, "Authorization must be Basic")
	}
	if isPlain {
		return a.clients[id], secret, nil
	}
	id, secret, err := unescape(id, secret)
	if err != nil {
		return OAuthClient{}, "", oauthViolation(invalidRequest, "the client ID and secret must be form-urlencoded in Basic authentication")
	}
	if form["client_id"] != "" && form["client_id"] != id {
		return OAuthClient{}, "", oauthViolation(invalidRequest, "client_id differs from the client ID in Authorization")
	}
	return a.clients[id], secret, nil
}

func (s *Sim) assertingClient(a *authServer, r *http.Request, form map[string]string) (OAuthClient, *oauthAnswer) {
	if form["client_assertion_type"] != assertionType {
		return OAuthClient{}, oauthViolation(invalidRequest, "client_assertion_type must be %s", assertionType)
	}
	audiences := []string{callerURL(r)}
	switch {
	case len(a.audiences) > 0:
		audiences = nil
		for _, accepted := range a.audiences {
			audiences = append(audiences, asSeen(r, accepted))
		}
	case !s.conduct.OAuth.OwnAudience:
		audiences = append(audiences, asSeen(r, a.TokenURL), asSeen(r, a.Issuer))
	}
	client, claims, refused := s.parseAssertion(a, form["client_assertion"], func(OAuthClient) []string { return audiences })
	if refused != nil {
		refused.code = invalidClient
		return OAuthClient{}, refused
	}
	switch id, _ := claims["jti"].(string); {
	case claims["sub"] != claims["iss"]:
		return OAuthClient{}, oauthViolation(invalidClient, "sub must be the client ID, as iss")
	case form["client_id"] != "" && form["client_id"] != client.ID:
		return OAuthClient{}, oauthViolation(invalidClient, "client_id differs from the iss of the assertion")
	case id == "" || a.assertions[id]:
		return OAuthClient{}, oauthViolation(invalidClient, "jti must be present and unused")
	default:
		a.assertions[id] = true
	}
	return client, nil
}
