package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Revocation is the last attempt to revoke dropped tokens.
type Revocation struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"` // why it failed; empty if it did not
}

const (
	// revokeTimeout bounds the revocation of the tokens of one credential.
	revokeTimeout = 15 * time.Second

	// maxDropped is the maximum number of dropped tokens of a scope that are kept in order to
	// revoke them. At a vendor that does not revoke, each refresh with drop adds one.
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

// newest returns the newest dropped tokens, at most maxDropped.
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

// checkNotDropped returns an error if a token has been dropped, since a vendor may return such a
// token again until it expires. (Guarantee 8.)
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

// Dedicable returns an error if readers of a stored credential cannot have tokens of their own, because one
// exchange has an effect on the tokens of others. revokes is whether the vendor revokes such a token when its
// lease ends.
func (b *Broker) Dedicable(ctx context.Context, s logical.Storage, c *Credential) (revokes bool, err error) {
	var snap snapshot
	if r := b.cached(c.Name); r != nil {
		snap = r.get()
	}
	if snap.presence != loaded {
		state, _, err := b.readState(ctx, s, c)
		if err != nil {
			return false, err
		}
		snap.credential, snap.state = c, state
	}
	return snap.dedicable(ctx)
}

func (snap snapshot) dedicable(ctx context.Context) (revokes bool, err error) {
	revoker, isRevoker := snap.credential.Vendor.(provider.Revoker)
	if isRevoker {
		if err := revoker.Independent(); err != nil {
			return false, err
		}
	}
	switch {
	case snap.credential.UsesRefreshToken:
		return false, provider.Errorf(provider.Invalid, "an exchange uses the refresh token, which all readers depend on")
	case !isRevoker:
		return false, nil
	}
	err = revoker.Revocable(snap.redacting(ctx))
	if err != nil && asProviderError(err).Kind == provider.Invalid { // there is no revocation endpoint
		return false, nil
	}
	return err == nil, err
}

func (snap snapshot) revoke(ctx context.Context, accessToken string) error {
	revoker, ok := snap.credential.Vendor.(provider.Revoker)
	if !ok {
		return nil // the vendor of the credential has changed since the token was issued
	}
	err := revoker.Revoke(snap.redacting(ctx), accessToken, snap.latestState().Grant)
	for _, former := range snap.credential.Formers {
		if revoker, is := former.Vendor.(provider.Revoker); is && RefusesClient(err) {
			err = revoker.Revoke(snap.redacting(ctx), accessToken, snap.latestState().Grant)
		}
	}
	return err
}

// A Dropped is a variant that was deleted. Its fields are nil if it could not be loaded.
type Dropped struct {
	Credential *Credential
	State      *State
}

// revokesAtOnce is how many tokens of variants are revoked at a time.
const revokesAtOnce = 8

// RevokeVariants revokes the tokens of variants that were deleted, within revokeTimeout. It logs how many it
// could not revoke.
func (b *Broker) RevokeVariants(ctx context.Context, base string, dropped []Dropped) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	var left atomic.Int64
	var all sync.WaitGroup
	next := make(chan Dropped)
	for range min(revokesAtOnce, len(dropped)) {
		all.Go(func() {
			for d := range next {
				snap := snapshot{credential: d.Credential, state: d.State}
				if done, _ := snap.revokeAll(ctx, d.State.acceptedTokens(), time.Now()); done != nil && done.Reason != "" {
					left.Add(1)
				}
			}
		})
	}
	for _, d := range dropped {
		if d.Credential == nil || d.State == nil {
			continue
		}
		select {
		case next <- d:
		case <-ctx.Done():
			left.Add(1)
		}
	}
	close(next)
	all.Wait()
	if n := left.Load(); n > 0 {
		b.source.Logger().Warn("tokens of readers cannot be revoked, and stay valid until they expire", "name", base, "count", n)
	}
}

// RevokeAll revokes the shared tokens of a deleted credential. It logs a failure.
func (b *Broker) RevokeAll(ctx context.Context, c *Credential, known *State) {
	if c == nil || known == nil {
		return
	}
	snap := snapshot{credential: c, state: known}
	if done, _ := snap.revokeAll(ctx, known.acceptedTokens(), time.Now()); done != nil && done.Reason != "" {
		b.source.Logger().Warn("tokens of a deleted credential cannot be revoked", "name", c.Name, "error", done.Reason)
	}
}

// revokeDropped revokes the dropped tokens, unless that might end the grant that the next exchange
// needs. It returns the result, nil if it tried nothing, and the tokens that the vendor may still
// accept.
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

// revokeAll revokes those tokens that have not expired. It returns the result, nil if the vendor
// cannot revoke or all have expired, and the tokens that the vendor may still accept.
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
	default: // the vendor's metadata cannot be read
		done.Reason = asProviderError(err).Reason
		return done, tokens
	}
	left := map[string][]provider.Token{}
	unavailable := false // after one such failure, the others would fail as well
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
