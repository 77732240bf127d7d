package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A RefreshError is why a refresh failed, and what readers get in the meantime.
type RefreshError struct {
	Err error

	// Dropped is whether the cached tokens were dropped.
	Dropped bool

	// ExpireTime is when the token that is still served for the failed scope expires; zero if there
	// is none.
	ExpireTime time.Time
}

func (e *RefreshError) Error() string { return e.Err.Error() }
func (e *RefreshError) Unwrap() error { return e.Err }

// An UnfinishedError means that a refresh timed out before it replaced the tokens of some scopes.
type UnfinishedError struct{ Scopes []string }

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("the refresh timed out after %s; tokens of these scopes were not replaced: %s; refresh again", renewTimeout, provider.List(e.Scopes))
}

// A TooManyRefreshesError means that a name was refreshed too often.
type TooManyRefreshesError struct{ Next time.Time } // when the next refresh is possible

func (e *TooManyRefreshesError) Error() string {
	return fmt.Sprintf("refreshed %d times within %s; the next refresh is possible at %s",
		maxRefreshes, refreshPeriod, FormatTime(e.Next.Add(time.Second-1)))
}

// takeRefresh counts a refresh of a name. Refreshes with drop are for leaks, and have a limit of
// their own.
func (r *record) takeRefresh(drop bool, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	limiter := &r.refreshLimits[0]
	if drop {
		limiter = &r.refreshLimits[1]
	}
	if *limiter == nil {
		*limiter = rate.NewLimiter(rate.Every(refreshPeriod/maxRefreshes), maxRefreshes)
	}
	r.needed = now
	r.touchLocked()
	reservation := (*limiter).ReserveN(now, 1)
	if wait := reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return &TooManyRefreshesError{Next: now.Add(wait)}
	}
	return nil
}

// Refresh exchanges a credential now, even while the engine is backing off, and replaces its tokens
// of all scopes. Older tokens are not served after it has succeeded. If it fails, the tokens that
// it has not replaced stay in use.
//
// With drop, it first drops the older tokens, and revokes them if the vendor can. They are not
// served after it has returned, even if it failed. The errors are of type *RefreshError, or of type
// *TooManyRefreshesError and those of Read if nothing was begun.
func (b *Broker) Refresh(ctx context.Context, s logical.Storage, name string, drop bool) (status *Status, err error) {
	r, err := b.existing(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if err := r.takeRefresh(drop, time.Now()); err != nil {
		return nil, err
	}
	r, unlock, err := b.lockRecord(ctx, name, pacing.Operator)
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer b.contain(r, &err)
	r.endPanicPause()
	// Readers with a valid token do not wait for the new one.
	r.setRunning(operation{since: time.Now(), urgency: pacing.Operator})
	defer r.setRunning(operation{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	for {
		v, err := b.refresh(ctx, s, r, drop)
		if err == nil {
			return newStatus(v.snapshot, time.Now()), nil
		}
		// Another node has written; load that first.
		if !errors.Is(err, errSuperseded) {
			return nil, newRefreshError(r, err, drop)
		}
	}
}

func (b *Broker) refresh(ctx context.Context, s logical.Storage, r *record, drop bool) (scopeSnapshot, error) {
	snap, err := b.load(ctx, s, r)
	if err != nil {
		return scopeSnapshot{}, err
	}
	switch {
	case drop:
		snap, err = b.dropTokens(ctx, s, r, snap)
	case snap.unsaved != nil:
		snap, err = b.save(ctx, s, r, snap, ownScope, snap.unsaved.state)
	}
	if err != nil {
		return scopeSnapshot{}, err
	}
	done, left := snap.revokeDropped(r.admit(ctx), time.Now())
	snap, err = r.update(snap.epoch, func(snap *snapshot) {
		if done == nil {
			done = snap.state.Revocation
		}
		snap.amend(func(s *State) *State { return s.withRevocation(done, left).withoutBackOff() })
		snap.removeStoredWrites(r.stored)
		snap.roleFailures = nil
		snap.delegated.failure.NextAttempt = time.Time{}
	})
	if err != nil {
		return scopeSnapshot{}, err
	}
	if provider.OnlyDelegates(snap.credential.Vendor) { // only the tokens of callers are cached
		snap, err = r.update(snap.epoch, func(snap *snapshot) { snap.epoch++ })
		return snap.of(ownScope), err
	}
	older := snap.validTokens(time.Now())
	if provider.LackOf(snap.credential.Vendor) != "" { // there is no token of its own
		return b.replaceScopes(ctx, s, r, snap, older)
	}
	v, err := b.exchangeScope(ctx, s, r, snap.of(ownScope), true)
	if err != nil {
		return v, err
	}
	return b.replaceScopes(ctx, s, r, v.snapshot, older)
}

// DropTokens drops the tokens of a variant, and returns it with the state before. Its readers get new tokens
// when they read. The errors are those of Read.
func (b *Broker) DropTokens(ctx context.Context, s logical.Storage, name string) (dropped Dropped, err error) {
	r, unlock, err := b.lockRecord(ctx, name, pacing.Operator)
	if err != nil {
		return Dropped{}, err
	}
	defer unlock()
	defer b.contain(r, &err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	for {
		snap, err := b.load(ctx, s, r)
		if err != nil {
			return Dropped{}, err
		}
		dropped = Dropped{Credential: snap.credential, State: snap.latestState()}
		if _, err = b.dropTokens(ctx, s, r, snap); !errors.Is(err, errSuperseded) { // otherwise another node has written
			r.noteRefused(ownScope)
			return dropped, err
		}
	}
}

// dropTokens drops the tokens of a name. It stores that before the vendor is called, so that a
// restart does not restore a token, and the next refresh revokes the tokens that an interrupted one
// leaves.
func (b *Broker) dropTokens(ctx context.Context, s logical.Storage, r *record, snap snapshot) (snapshot, error) {
	// With a new epoch, readers that wait for a renewal start again.
	dropped := snap.latestState().withDroppedTokens()
	snap, err := r.update(snap.epoch, func(snap *snapshot) {
		snap.epoch++
		snap.state = dropped
	})
	if err != nil {
		return snap, err
	}
	return b.save(ctx, s, r, snap, ownScope, dropped)
}

// validTokens returns the tokens that readers may get, by scope: those in use, and those that
// storage has refused, which replace them once they are stored.
func (snap snapshot) validTokens(now time.Time) map[string]provider.Token {
	all := map[string]provider.Token{}
	for _, tokens := range []map[string]provider.Token{snap.state.Tokens, snap.latestState().Tokens} {
		for scope, token := range tokens {
			if leaseTTL(token, now) > 0 {
				all[scope] = token
			}
		}
	}
	return all
}

// replaceScopes replaces the older tokens of narrower scopes that are still valid. It begins with
// the oldest, since a refresh that times out is repeated. It goes on after the vendor rejects a
// scope, and joins such errors.
func (b *Broker) replaceScopes(ctx context.Context, s logical.Storage, r *record, snap snapshot, older map[string]provider.Token) (scopeSnapshot, error) {
	var rejected error
	var left []string // scopes whose tokens were not replaced
	scopes := slices.DeleteFunc(slices.Collect(maps.Keys(older)), func(scope string) bool { return scope == ownScope })
	slices.SortFunc(scopes, func(a, b string) int {
		return cmp.Or(older[a].IssueTime.Compare(older[b].IssueTime), cmp.Compare(a, b))
	})
	for i, scope := range scopes {
		if leaseTTL(older[scope], time.Now()) == 0 {
			continue
		}
		v, err := b.exchangeScope(ctx, s, r, snap.of(scope), true)
		var failed *ExchangeError
		switch {
		case err == nil:
		case errors.As(err, &failed) && failed.Err.MayBeScope, storage.IsTooLarge(err):
			rejected, left = errors.Join(rejected, err), append(left, scope)
		case errors.Is(err, ErrBusy):
			return v, &UnfinishedError{Scopes: append(left, scopes[i:]...)}
		default:
			return v, err
		}
		snap = v.snapshot
	}
	if rejected != nil {
		return snap.of(ownScope), rejected
	}
	// With a new epoch, readers that start now do not join an older renewal.
	snap, err := r.update(snap.epoch, func(snap *snapshot) { snap.epoch++ })
	if err != nil {
		return scopeSnapshot{}, err
	}
	return snap.of(ownScope), nil
}

// newRefreshError returns the error of a failed refresh.
func newRefreshError(r *record, err error, dropped bool) *RefreshError {
	failed := &RefreshError{Err: err, Dropped: dropped}
	scope := ownScope
	var exchange *ExchangeError
	if errors.As(err, &exchange) {
		scope = exchange.Scope
	}
	if snap := r.get(); snap.presence == loaded {
		if token := snap.of(scope).token(); leaseTTL(token, time.Now()) > 0 {
			failed.ExpireTime = token.ExpireTime
		}
	}
	return failed
}
