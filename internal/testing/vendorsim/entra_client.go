package vendorsim

import "strings"

// AddEntraSecret lets Microsoft Graph replace the secret of a client that AddOAuthClient has added, as one of an
// application that owns itself. It returns the ID of the secret. The client's other secret stays valid.
func (s *Sim) AddEntraSecret(client OAuthClient) (secretID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &account{kind: "entra/client_secret", name: client.ID, id: client.ID, issuer: client.Issuer}
	a.objectID = a.uuid("object")
	s.rotating.accounts = append(s.rotating.accounts, a)
	s.rotating.hosts[entraGraph] = s.graph
	return s.first(a, &heldSecret{id: a.uuid("secret"), name: "first", text: s.secret(client.Secret), notBefore: s.now().Add(-age), expiry: s.now().AddDate(2, 0, 0)}).id
}

// accountOf returns the account of a client of an OAuth server; nil if it has none.
func (s *Sim) accountOf(issuer, client string) *account {
	return s.accountWith(func(a *account) bool { return a.issuer == issuer && a.id == client }, "entra/client_secret")
}

// knows reports whether a secret is one of a client.
func (s *Sim) knows(server *authServer, c OAuthClient, secret string) bool {
	a := s.accountOf(server.Issuer, c.ID)
	switch {
	case c.hasSecret != nil:
		return c.hasSecret(secret)
	case secret != "" && secret == c.NextSecret:
		return true
	case a != nil:
		return s.acceptsText(a, secret)
	}
	return secret == c.Secret
}

// grantedByServer returns what a token of an OAuth server is for, if its client has an account.
func (s *Sim) grantedByServer(token string) (g grantedToken, isKnown bool) {
	grant := s.oauth.tokens[token]
	if grant == nil {
		return g, false
	}
	g = grantedToken{account: s.accountOf(grant.issuer, grant.client), scope: grant.scope}
	if g.account == nil || len(g.scope) != 1 {
		return grantedToken{}, false
	}
	g.audience = strings.TrimSuffix(g.scope[0], dotDefault)
	return g, true
}
