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

// refuseDropped is why nobody gets a token that has been dropped: a vendor may answer with one
// token until it expires. It is nil for any other. (Guarantee 8.)
func (s *State) refuseDropped(t provider.Token) *provider.Error {
	for _, tokens := range s.Dropped {
		for _, dropped := range tokens {
			switch {
			case dropped.AccessToken != t.AccessToken:
			case t.NotRenewable:
				return provider.Errorf(provider.Rejected, "the access token of the credential was dropped")
			default:
				return provider.Errorf(provider.Unavailable, "the vendor answers with the access token that was dropped, which expires at %s", FormatTime(dropped.ExpireTime))
			}
		}
	}
	return nil
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
	if err := revoker.Independent(); err != nil {
		return err
	}
	return revoker.Revocable(m.guard(ctx))
}

func (m memory) revoke(ctx context.Context, accessToken string) error {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok {
		return nil // nor has there been a way before
	}
	return revoker.Revoke(m.guard(ctx), accessToken, m.latest().Grant)
}

// RevokeAll revokes, as well as it can, the shared tokens of a credential that is being deleted.
func (b *Broker) RevokeAll(ctx context.Context, c *Credential, known *State) {
	if c == nil || known == nil {
		return
	}
	m := memory{credential: c, state: known}
	if done, _ := m.revokeAll(ctx, known.held(), time.Now()); done != nil && done.Reason != "" {
		b.source.Logger().Warn("tokens of a deleted credential cannot be revoked", "name", c.Name, "error", done.Reason)
	}
}

// revokeDropped revokes the tokens that have been dropped, unless what the next exchange
// needs may end with them. It returns nil if there is nothing to tell, and the tokens that the
// vendor may still accept.
func (m memory) revokeDropped(ctx context.Context, now time.Time) (*Revocation, map[string][]provider.Token) {
	dropped := living(m.latest().Dropped, now)
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok || len(dropped) == 0 {
		return nil, dropped
	}
	if err := revoker.Independent(); err != nil {
		return &Revocation{Time: now.Round(0).UTC(), Reason: "left alone: " + err.Error()}, dropped
	}
	return m.revokeAll(ctx, dropped, now)
}

// revokeAll revokes those of some tokens that have not expired. It returns nil if the vendor
// cannot, or if there are none, and the tokens that the vendor may still accept.
func (m memory) revokeAll(ctx context.Context, tokens map[string][]provider.Token, now time.Time) (*Revocation, map[string][]provider.Token) {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	tokens = living(tokens, now)
	if !ok || len(tokens) == 0 {
		return nil, tokens
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	done := &Revocation{Time: now.Round(0).UTC()}
	switch err := revoker.Revocable(m.guard(ctx)); {
	case err == nil:
	case asProviderError(err).Kind == provider.Invalid:
		return nil, tokens
	default: // its metadata cannot be had
		done.Reason = asProviderError(err).Reason
		return done, tokens
	}
	left := map[string][]provider.Token{}
	unavailable := false // for one token, and so for all
	for _, scope := range slices.Sorted(maps.Keys(tokens)) {
		for _, token := range tokens[scope] {
			if !unavailable {
				err := m.revoke(ctx, token.AccessToken)
				if err == nil {
					continue
				}
				failure := asProviderError(err)
				done.Reason, unavailable = failure.Reason, failure.Kind == provider.Unavailable
			}
			left[scope] = append(left[scope], token)
		}
	}
	return done, left
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
