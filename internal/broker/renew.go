package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// saveInterval is how long a write is not repeated after its last attempt has failed.
const saveInterval = 5 * time.Second

// saveTimeout bounds the write of what came of a change, with its retries.
const saveTimeout = 30 * time.Second

// A task is a renewal that may be needed.
type task struct {
	entry *entry
	epoch uint64
	scope string

	// minTTL is what a reader wants the token to be good for at least, and short when
	// the token was issued that the reader finds too short: another has been exchanged
	// since whoever asked.
	minTTL time.Duration
	short  time.Time

	// unasked is whether nobody waits for it, and wanted whether somebody will.
	unasked, wanted bool
}

func (t task) needed(v view, now time.Time) bool {
	if t.unasked {
		return v.dueUnasked(now, t.wanted)
	}
	minTTL := t.minTTL
	if !v.token().IssueTime.Equal(t.short) {
		minTTL = 0
	}
	return v.due(now, minTTL)
}

// renew gets a token that can be leased now: from storage after a restart, else
// from the vendor if it is needed.
func (b *Broker) renew(ctx context.Context, s logical.Storage, t task) (reading *IssuedToken, err error) {
	e := t.entry
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer b.leave(e)
	defer b.contain(e, &err)
	e.renewing(renewal{since: time.Now()})
	defer e.renewing(renewal{})
	m, err := b.current(ctx, s, e)
	if err != nil {
		return nil, err
	}
	v := m.view(t.scope)
	if v.unwritten() != nil {
		if m, err = b.settle(ctx, s, e, v); err != nil {
			return nil, err
		}
		v = v.with(m)
	}
	reading = v.reading(time.Now(), t.minTTL)
	if (reading != nil || t.unasked) && !t.needed(v, time.Now()) {
		_, err = e.change(v.epoch, func(*memory) { e.answered(v.scope) })
		return reading, err
	}
	if v.held(time.Now()) {
		return nil, v.refusal()
	}

	if now := time.Now(); !t.unasked && reading != nil && !v.due(now, 0) {
		if m, err = e.change(v.epoch, func(m *memory) { v.tookEarly(m, now) }); err != nil {
			return nil, err
		}
		v = v.with(m)
	}

	// In the last seconds of the hour the vendor's token dies in the reader's
	// hands, so there may be a second pass, for the next hour's.
	for _, again := range []bool{true, false} {
		if token := v.token(); reading == nil && dying(token, time.Now()) {
			if err := sleepUntil(ctx, earlier(token.RenewableFrom, time.Now().Add(boundaryWait)), b.closed); err != nil {
				return nil, err
			}
		}
		if b.isClosed() {
			return nil, ErrClosed
		}
		if v, err = b.exchange(ctx, s, e, v, again); err != nil {
			return nil, err
		}
		if reading = v.reading(time.Now(), t.minTTL); reading != nil {
			return reading, nil
		}
		if v.token().RenewableFrom.IsZero() {
			break
		}
	}
	if reading = v.lease(time.Now(), t.minTTL); reading != nil {
		return reading, nil
	}
	return nil, v.tooLate(time.Now())
}

// exchange calls the vendor once for a scope and keeps what came of it. again is whether
// another exchange follows if the token is of an hour that ends. Its error is ErrBusy if the
// time for exchanges to begin is over. The caller has the exclusive right to the name.
func (b *Broker) exchange(ctx context.Context, s logical.Storage, e *entry, v view, again bool) (view, error) {
	if ctx.Err() != nil {
		return v, ErrBusy
	}
	latest := v.latest()
	if err := fence(ctx, s, latest.grant(v.scope)); err != nil {
		b.logger(e, v).Warn("storage takes no write, so the vendor is not called", "error", err)
		e.hold(s, latest, err)
		return v, err
	}
	ctx, cancel := seenThrough(ctx)
	defer cancel()
	next, x, _ := call(ctx, v.credential, latest, v.scope, v.earlier[v.scope])
	b.noteSkew(e, next)
	if x.Err == nil {
		next, x = v.judged(next, x, again)
	}
	if x.invalid() {
		return v, x.Err
	}
	if x.Err != nil {
		return b.failed(ctx, s, e, v, next, x)
	}
	b.tell(x)
	m, err := b.save(ctx, s, e, v.memory, v.scope, next)
	b.kept(x, err == nil)
	return v.with(m), err
}

// failed keeps a failure, and with it what the state has all the same. Its error is
// of type *ExchangeError, or of *storage.Error if a new grant cannot be stored.
func (b *Broker) failed(ctx context.Context, s logical.Storage, e *entry, v view, state *State, x Exchange) (view, error) {
	now := time.Now()
	next := state.failed(v.scope, x.Err, now)
	noted := v.with(memory{state: next}).failure(now)
	x.Failures, x.NextAttempt = noted.Count, noted.NextAttempt
	x.News = next.rejected(v.scope) && !v.state.rejected(v.scope)
	b.tell(x)
	defer b.kept(x, false)
	// A token that nobody can have may have ended the one of before all the same.
	if !next.sameGrants(v.latest()) || !x.ExpireTime.IsZero() {
		m, err := b.save(ctx, s, e, v.memory, v.scope, next)
		if err != nil {
			return v.with(m), err
		}
		return v.with(m), v.with(m).refusal()
	}
	m, err := b.note(ctx, s, e, v, next, x.Err)
	if err != nil {
		return v.with(m), err
	}
	return v.with(m), v.with(m).refusal()
}

func asProviderError(err error) *provider.Error {
	var e *provider.Error
	if errors.As(err, &e) {
		return e
	}
	return provider.Errorf(provider.Unavailable, "%s", err)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// sleepUntil waits until a time, unless there is no use in it any more.
func sleepUntil(ctx context.Context, t time.Time, closed <-chan struct{}) error {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
