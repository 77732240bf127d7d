package kensho

import (
	"context"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// pasted is an access token that somebody copied from the Account page. There is
// nothing to exchange it with: it is good until it dies.
type pasted struct {
	answer provider.Answer
}

func openPasted(c config, written time.Time) (provider.Credential, error) {
	if err := provider.CheckSecret("access_token", c.AccessToken); err != nil {
		return nil, err
	}
	return &pasted{provider.Answer{
		AccessToken: c.AccessToken,
		OnTheHour:   true,
		Final:       true,
		Clock:       provider.Clock{Sent: written, Received: written},
	}}, nil
}

// Exchange gives the token itself while it lives. That it has died is for the
// operator to know, who alone can copy another.
func (p *pasted) Exchange(context.Context, provider.Grant) (*provider.Answer, error) {
	token, err := p.answer.Token(0, provider.Token{})
	if err != nil {
		return nil, err
	}
	if !time.Now().Before(token.ExpireTime) {
		return nil, provider.Errorf(provider.Rejected, "access_token expired at %s: copy a new one from the Account page, or use a refresh_token, which lasts",
			token.ExpireTime.Format(time.RFC3339))
	}
	answer := p.answer
	return &answer, nil
}
