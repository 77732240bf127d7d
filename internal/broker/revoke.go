package broker

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Revocation is the last attempt at revoking dropped tokens.
type Revocation struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"` // why it failed; empty if it did not
}

const (
	// revokeTimeout bounds what revoking the tokens of one credential may take.
	revokeTimeout = 15 * time.Second

	// maxDropped is how many dropped tokens of a scope are kept to be revoked. A vendor that does
	// not revoke leaves one for each refresh with drop.
	maxDropped = 8
)

// acceptedTokens returns the tokens that the vendor may still accept, by scope.
func (s *State) acceptedTokens() map[string][]provider.Token {
	all := maps.Clone(s.Dropped)
	for scope, token := range s.Tokens {
		all = withKey(all, scope, append(slices.Clip(all[scope]), token))
	}
	return all
}

// newest returns the last of some dropped tokens, as many as are kept.
func newest(tokens []provider.Token) []provider.Token {
	return tokens[max(0, len(tokens)-maxDropped):]
}

// unexpired returns the tokens that have not expired, by scope.
func unexpired(tokens map[string][]provider.Token, now time.Time) map[string][]provider.Token {
	var left map[string][]provider.Token
	for scope, all := range tokens {
		for _, t := range all {
			if now.Before(t.ExpireTime) {
				left = withKey(left, scope, append(slices.Clip(left[scope]), t))
			}
		}
	}
	return left
}

// checkNotDropped returns why a token that has been dropped is not served, which the vendor may return
// again until it expires; nil for any other. (Guarantee 8.)
func (s *State) checkNotDropped(t provider.Token) *provider.Error {
	for _, tokens := range s.Dropped {
		for _, dropped := range tokens {
			switch {
			case dropped.AccessToken != t.AccessToken:
			case t.NotRenewable:
				return provider.Errorf(provider.Rejected, "the access token of the credential was dropped")
			default:
				return provider.Errorf(provider.Unavailable, "the vendor returned the access token that was dropped, which expires at %s", FormatTime(dropped.ExpireTime))
			}
		}
	}
	return nil
}

// Revocable returns an error that says why the tokens of the named credential cannot be revoked one
// by one, each with an exchange of its own; nil if they can.
func (b *Broker) Revocable(ctx context.Context, s logical.Storage, name string) error {
	snap, err := b.lookup(ctx, s, name)
	if err != nil {
		return err
	}
	return snap.revocable(ctx)
}

func (snap snapshot) revocable(ctx context.Context) error {
	revoker, ok := snap.credential.Vendor.(provider.Revoker)
	if !ok {
		return provider.Errorf(provider.Invalid, "the vendor documents no way to revoke an access token")
	}
	if err := revoker.Independent(); err != nil {
		return err
	}
	return revoker.Revocable(snap.redacting(ctx))
}

func (snap snapshot) revoke(ctx context.Context, accessToken string) error {
	revoker, ok := snap.credential.Vendor.(provider.Revoker)
	if !ok {
		return nil // nor could it when the token was issued
	}
	return revoker.Revoke(snap.redacting(ctx), accessToken, snap.latestState().Grant)
}

// RevokeAll revokes the shared tokens of a credential that is deleted. What the vendor does not
// revoke is logged.
func (b *Broker) RevokeAll(ctx context.Context, c *Credential, known *State) {
	if c == nil || known == nil {
		return
	}
	snap := snapshot{credential: c, state: known}
	if done, _ := snap.revokeAll(ctx, known.acceptedTokens(), time.Now()); done != nil && done.Reason != "" {
		b.source.Logger().Warn("tokens of a deleted credential cannot be revoked", "name", c.Name, "error", done.Reason)
	}
}

// revokeDropped revokes the dropped tokens, unless that may end what the next exchange needs. It
// returns the result, nil if nothing was tried, and the tokens that the vendor may still accept.
func (snap snapshot) revokeDropped(ctx context.Context, now time.Time) (*Revocation, map[string][]provider.Token) {
	dropped := unexpired(snap.latestState().Dropped, now)
	revoker, ok := snap.credential.Vendor.(provider.Revoker)
	if !ok || len(dropped) == 0 {
		return nil, dropped
	}
	if err := revoker.Independent(); err != nil {
		return &Revocation{Time: now.Round(0).UTC(), Reason: "not revoked: " + err.Error()}, dropped
	}
	return snap.revokeAll(ctx, dropped, now)
}

// revokeAll revokes those of some tokens that have not expired. It returns the result, nil if the
// vendor cannot revoke or there are none, and the tokens that the vendor may still accept.
func (snap snapshot) revokeAll(ctx context.Context, tokens map[string][]provider.Token, now time.Time) (*Revocation, map[string][]provider.Token) {
	revoker, ok := snap.credential.Vendor.(provider.Revoker)
	tokens = unexpired(tokens, now)
	if !ok || len(tokens) == 0 {
		return nil, tokens
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	done := &Revocation{Time: now.Round(0).UTC()}
	switch err := revoker.Revocable(snap.redacting(ctx)); {
	case err == nil:
	case asProviderError(err).Kind == provider.Invalid:
		return nil, tokens
	default: // its metadata cannot be read
		done.Reason = asProviderError(err).Reason
		return done, tokens
	}
	left := map[string][]provider.Token{}
	unavailable := false // for one token, and so for all
	for _, scope := range slices.Sorted(maps.Keys(tokens)) {
		for _, token := range tokens[scope] {
			if !unavailable {
				err := snap.revoke(ctx, token.AccessToken)
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
