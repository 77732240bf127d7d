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

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A RefreshError is why a refresh has failed, and what that means for readers.
type RefreshError struct {
	Err error

	// Dropped is whether the tokens of before were dropped.
	Dropped bool

	// ExpireTime is that of the token, of the scope that failed, which is served on; zero if
	// there is none.
	ExpireTime time.Time
}

func (e *RefreshError) Error() string { return e.Err.Error() }
func (e *RefreshError) Unwrap() error { return e.Err }

// An UnfinishedError means that a refresh has taken so long that it left tokens as they were.
type UnfinishedError struct{ Scopes []string } // of those tokens

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("the refresh was ended after %s, and has not replaced the tokens of these scopes: %s; refresh again", renewTimeout, provider.List(e.Scopes))
}

// A TooManyRefreshesError means that a name has been refreshed as often as it may be.
type TooManyRefreshesError struct{ Next time.Time }

func (e *TooManyRefreshesError) Error() string {
	return fmt.Sprintf("%d refreshes within %s are as many as there may be; the next one may be at %s",
		maxRefreshes, refreshPeriod, FormatTime(e.Next.Add(time.Second-1)))
}

func newRefreshes() *rate.Limiter {
	return rate.NewLimiter(rate.Every(refreshPeriod/maxRefreshes), maxRefreshes)
}

// takeRefresh takes one from the refreshes of a name that are left. Those that drop tokens are
// for leaks, and count by themselves.
func (e *entry) takeRefresh(drop bool, now time.Time) error {
	limiter := e.refreshes[0]
	if drop {
		limiter = e.refreshes[1]
	}
	reservation := limiter.ReserveN(now, 1)
	if wait := reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return &TooManyRefreshesError{Next: now.Add(wait)}
	}
	return nil
}

// Refresh exchanges a name now, whatever has failed before, and replaces its tokens, of
// all scopes. No older token is served once it has succeeded; if it fails, those that have
// not been replaced are served on.
//
// With drop, the older tokens are dropped first, and revoked where the vendor can: none is
// served once it has returned, even if it failed. Its errors are of type *RefreshError,
// unless nothing was begun: of type *TooManyRefreshesError where there were too many.
func (b *Broker) Refresh(ctx context.Context, s logical.Storage, name string, drop bool) (status *Status, err error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if err := e.takeRefresh(drop, time.Now()); err != nil {
		return nil, err
	}
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer b.leave(e)
	defer b.contain(e, &err)
	e.forgive()
	// Readers who have a valid token do not wait for the new one.
	e.renewing(renewal{since: time.Now()})
	defer e.renewing(renewal{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	for {
		v, err := b.refresh(ctx, s, e, drop)
		if err == nil {
			return v.status(time.Now()), nil
		}
		// What another node wrote meanwhile is to be loaded first.
		if !errors.Is(err, errSuperseded) {
			return nil, e.refreshError(err, drop)
		}
	}
}

func (b *Broker) refresh(ctx context.Context, s logical.Storage, e *entry, drop bool) (view, error) {
	m, err := b.current(ctx, s, e)
	if err != nil {
		return view{}, err
	}
	switch {
	case drop:
		m, err = b.drop(ctx, s, e, m)
	case m.unsaved != nil:
		m, err = b.save(ctx, s, e, m, ownScope, m.unsaved.state)
	}
	if err != nil {
		return view{}, err
	}
	done, left := m.revokeDropped(ctx, time.Now())
	m, err = e.change(m.epoch, func(m *memory) {
		if done == nil {
			done = m.state.Revocation
		}
		m.amend(func(s *State) *State { return s.revoked(done, left).retriable() })
		m.retry(e.stored)
		m.dedicated = nil
	})
	if err != nil {
		return view{}, err
	}
	older := m.valid(time.Now())
	v, err := b.exchange(ctx, s, e, m.view(ownScope), true)
	if err != nil {
		return v, err
	}
	return b.replaceScopes(ctx, s, e, v.memory, older)
}

// drop drops the tokens of a name. It is stored before the vendor is called, so that no
// restart brings one back, and so that the next refresh knows those that a kill leaves to
// be revoked.
func (b *Broker) drop(ctx context.Context, s logical.Storage, e *entry, m memory) (memory, error) {
	// In another epoch, so that those who wait for a renewal start anew.
	dropped := m.latest().forgotten()
	m, err := e.change(m.epoch, func(m *memory) {
		m.epoch++
		m.state = dropped
	})
	if err != nil {
		return m, err
	}
	return b.save(ctx, s, e, m, ownScope, dropped)
}

// valid are the tokens that readers may be served, by scope: those in use, and those that
// storage has refused, which take their place once it takes them.
func (m memory) valid(now time.Time) map[string]provider.Token {
	all := map[string]provider.Token{}
	for _, tokens := range []map[string]provider.Token{m.state.Tokens, m.latest().Tokens} {
		for scope, token := range tokens {
			if leaseTTL(token, now) > 0 {
				all[scope] = token
			}
		}
	}
	return all
}

// replaceScopes exchanges the narrower scopes of older tokens that are still valid, after
// the credential's own, the oldest first: a refresh that has no time for all is repeated. A
// scope that the vendor rejects does not keep it from the others; all such errors are joined.
func (b *Broker) replaceScopes(ctx context.Context, s logical.Storage, e *entry, m memory, older map[string]provider.Token) (view, error) {
	var rejected error
	var left []string // scopes that have not been replaced
	scopes := slices.DeleteFunc(slices.Collect(maps.Keys(older)), func(scope string) bool { return scope == ownScope })
	slices.SortFunc(scopes, func(a, b string) int {
		return cmp.Or(older[a].IssueTime.Compare(older[b].IssueTime), cmp.Compare(a, b))
	})
	for i, scope := range scopes {
		if leaseTTL(older[scope], time.Now()) == 0 {
			continue
		}
		v, err := b.exchange(ctx, s, e, m.view(scope), true)
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
		m = v.memory
	}
	if rejected != nil {
		return m.view(ownScope), rejected
	}
	// In another epoch, so that no later reader gets what an earlier one has waited for.
	m, err := e.change(m.epoch, func(m *memory) { m.epoch++ })
	if err != nil {
		return view{}, err
	}
	return m.view(ownScope), nil
}

// refreshError is what a refresh that failed means for readers.
func (e *entry) refreshError(err error, dropped bool) *RefreshError {
	failed := &RefreshError{Err: err, Dropped: dropped}
	scope := ownScope
	var exchange *ExchangeError
	if errors.As(err, &exchange) {
		scope = exchange.Scope
	}
	if m := e.look(); m.credential != nil {
		if token := m.view(scope).token(); leaseTTL(token, time.Now()) > 0 {
			failed.ExpireTime = token.ExpireTime
		}
	}
	return failed
}
