package kensho

import (
	"context"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// lastMoments is what is left of a token that cannot be leased any more.
	lastMoments = 2 * time.Second

	// maxStep is how far ahead of this server's clock a token may have been written, by
	// another server's of the same cluster.
	maxStep = 5 * time.Second
)

// pasted is an access token that somebody copied from the Account page. There is
// nothing to exchange it with: it is good until it dies.
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

// Idle is zero: it dies when it dies, used or not.
func (p *pasted) MaxIdle() time.Duration { return 0 }

// Scope is not known.
func (p *pasted) Scope() []string { return nil }

// Destinations are none: the token goes to its readers.
func (p *pasted) Destinations() provider.Destinations { return provider.Destinations{} }

// Narrow refuses: the token is what it is.
func (p *pasted) Narrow([]string) (provider.Credential, error) {
	return nil, provider.Errorf(provider.Invalid, "scope: an access token that was copied by hand has the scope that it has; leave scope out, or use a credential with a key pair")
}

// Exchange gives the token itself while it lives. That it has died is for the
// operator to know, who alone can copy another.
func (p *pasted) Exchange(context.Context, provider.Grant) (*provider.Answer, error) {
	token, err := p.answer.Token(p.ttl, provider.Token{})
	if err != nil {
		return nil, err
	}
	if time.Until(token.IssueTime) > maxStep {
		return nil, provider.Errorf(provider.Expired, "access_token was written at %s, which is in the future by this server's clock, so that nothing tells whether it has expired: set the clock, and write the token again",
			token.IssueTime.Format(time.RFC3339))
	}
	if time.Until(token.ExpireTime) < lastMoments {
		return nil, provider.Errorf(provider.Expired, "access_token died at %s: copy a new one from the Account page, or use a refresh_token, which lasts",
			token.ExpireTime.Format(time.RFC3339))
	}
	answer := p.answer
	return &answer, nil
}
