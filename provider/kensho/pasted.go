package kensho

import (
	"context"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// lastMoments is the remaining lifetime below which a token is not leased.
	lastMoments = 2 * time.Second

	// maxStep is how far the write time may be ahead of this server's clock. Another server
	// of the cluster may have handled the write.
	maxStep = 5 * time.Second
)

// pasted is a credential with an access token that the operator copied from the Account
// page. It cannot be exchanged, and is served until it expires.
type pasted struct {
	answer provider.Answer
	ttl    provider.TTL
}

func openPasted(c config, written time.Time) (provider.Credential, error) {
	if err := provider.CheckSecret("access_token", c.AccessToken); err != nil {
		return nil, err
	}
	return &pasted{
		ttl: provider.TTL{Max: c.MaxTTL.Duration()},
		answer: provider.Answer{
			AccessToken:  c.AccessToken,
			OnTheHour:    true,
			NotRenewable: true,
			Clock:        provider.Clock{Sent: written, Received: written},
		},
	}, nil
}

// MaxIdle returns zero, as use does not affect when the token expires.
func (p *pasted) MaxIdle() time.Duration { return 0 }

// Scope returns nil, as only the vendor knows the scope.
func (p *pasted) Scope() []string { return nil }

// Destinations returns none, as the token is sent only to its readers.
func (p *pasted) Destinations() provider.Destinations { return provider.Destinations{} }

// Narrow returns an error, as the scope of an issued token cannot change.
func (p *pasted) Narrow([]string) (provider.Credential, error) {
	return nil, provider.Errorf(provider.Invalid, "scope: a copied access token cannot be narrowed; omit scope, or use a credential with a key pair")
}

// Exchange returns the token itself, without calling the vendor. Its error is of kind
// Expired once the token has expired: only the operator can copy another one.
func (p *pasted) Exchange(context.Context, provider.Grant) (*provider.Answer, error) {
	token, err := p.answer.Token(p.ttl, provider.Token{})
	if err != nil {
		return nil, err
	}
	if time.Until(token.IssueTime) > maxStep {
		return nil, provider.Errorf(provider.Expired, "access_token was written at %s, which is in the future by this server's clock, so its expiry is unknown; correct the clock and write the token again",
			token.IssueTime.Format(time.RFC3339))
	}
	if time.Until(token.ExpireTime) < lastMoments {
		return nil, provider.Errorf(provider.Expired, "access_token expired at %s; copy a new one from the Account page, or use a refresh_token, which the engine renews",
			token.ExpireTime.Format(time.RFC3339))
	}
	answer := p.answer
	return &answer, nil
}
