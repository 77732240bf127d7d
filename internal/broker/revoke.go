package broker

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Revocation is the last attempt at revoking tokens that the engine dropped.
type Revocation struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"` // why it failed; empty if it did not
}

const (
	// revokeTimeout bounds what revoking the tokens of one credential may take.
	revokeTimeout = 15 * time.Second

	// maxDropped is how many dropped tokens of a scope are kept to be revoked: as many as
	// a vendor that does not revoke leaves after as many leaks.
	maxDropped = 8
)

// held are all the tokens that the vendor may still accept, by scope.
func (s *State) held() map[string][]provider.Token {
	all := maps.Clone(s.Dropped)
	for scope, token := range s.Tokens {
		all = with(all, scope, append(slices.Clip(all[scope]), token))
	}
	return all
}

// newest are the last of some dropped tokens, as many as are kept.
func newest(tokens []provider.Token) []provider.Token {
	return tokens[max(0, len(tokens)-maxDropped):]
}

// living are the tokens that have not expired, by scope.
func living(tokens map[string][]provider.Token, now time.Time) map[string][]provider.Token {
	var left map[string][]provider.Token
	for scope, all := range tokens {
		for _, t := range all {
			if now.Before(t.ExpireTime) {
				left = with(left, scope, append(slices.Clip(left[scope]), t))
			}
		}
	}
	return left
}

// Revocable is nil if tokens of the named credential can be revoked one by one, each
// with an exchange of its own. Its error says why they cannot.
func (b *Broker) Revocable(ctx context.Context, s logical.Storage, name string) error {
	m, err := b.lookup(ctx, s, name)
	if err != nil {
		return err
	}
	return m.revocable(ctx)
}

func (m memory) revocable(ctx context.Context) error {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok {
		return provider.Errorf(provider.Invalid, "the vendor documents no way to revoke an access token")
	}
	if err := revoker.Alone(); err != nil {
		return err
	}
	return revoker.Revocable(m.guard(ctx))
}

// Revoke ends an access token of the named credential at the vendor. ErrUnknown means
// that there is no such credential any more.
func (b *Broker) Revoke(ctx context.Context, s logical.Storage, name, accessToken string) error {
	m, err := b.lookup(ctx, s, name)
	if err != nil {
		return err
	}
	return m.revoke(ctx, accessToken)
}

func (m memory) revoke(ctx context.Context, accessToken string) error {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok {
		return nil // nor has there been a way before
	}
	return revoker.Revoke(m.guard(ctx), accessToken, m.latest().Grant)
}

// Drop revokes, as well as it can, the tokens of a credential that is being deleted.
func (b *Broker) Drop(ctx context.Context, c *Credential, known *State) {
	if c == nil || known == nil {
		return
	}
	m := memory{credential: c, state: known}
	if done, _ := m.revokeAll(ctx, known.held(), time.Now()); done != nil && done.Reason != "" {
		b.source.Logger().Warn("tokens of a deleted credential cannot be revoked", "name", c.Name, "error", done.Reason)
	}
}

// revokeDropped revokes the tokens that have been dropped, unless what the next exchange
// needs may end with them. What it returns is nil if there is nothing to tell, and the
// tokens are those to try again.
func (m memory) revokeDropped(ctx context.Context, now time.Time) (*Revocation, map[string][]provider.Token) {
	dropped := living(m.latest().Dropped, now)
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok || len(dropped) == 0 {
		return nil, nil
	}
	if err := revoker.Alone(); err != nil {
		return &Revocation{Time: now.Round(0).UTC(), Reason: "left alone: " + err.Error()}, nil
	}
	return m.revokeAll(ctx, dropped, now)
}

// revokeAll revokes those of some tokens that live. What it returns is nil if the vendor
// cannot, or if there are none, and the tokens are those to try again.
func (m memory) revokeAll(ctx context.Context, tokens map[string][]provider.Token, now time.Time) (*Revocation, map[string][]provider.Token) {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	tokens = living(tokens, now)
	if !ok || len(tokens) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	done := &Revocation{Time: now.Round(0).UTC()}
	switch err := revoker.Revocable(m.guard(ctx)); {
	case err == nil:
	case asProviderError(err).Kind == provider.Invalid:
		return nil, nil
	default: // its metadata cannot be had
		done.Reason = asProviderError(err).Reason
		return done, tokens
	}
	left := tokens
	for _, scope := range slices.Sorted(maps.Keys(tokens)) {
		for i, token := range tokens[scope] {
			if err := m.revoke(ctx, token.AccessToken); err != nil {
				failure := asProviderError(err)
				done.Reason = failure.Reason
				if failure.Kind == provider.Unavailable { // for one, and so for all
					return done, with(left, scope, tokens[scope][i:])
				}
			}
		}
		left = without(left, func(revoked string, _ []provider.Token) bool { return revoked == scope })
	}
	return done, nil
}

// lookup is what is known of a name, loaded from storage if need be. It waits for
// nobody.
func (b *Broker) lookup(ctx context.Context, s logical.Storage, name string) (memory, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return memory{}, err
	}
	m := e.look()
	if m.credential == nil {
		m.credential, m.state, _, err = b.readCredential(ctx, s, e)
	}
	return m, err
}
