package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// saveRetries are the pauses before each attempt at a write that must not be lost;
// saveInterval is how long it is left alone after the last.
var saveRetries = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond}

const saveInterval = 5 * time.Second

// skewWorthNoting is how far a vendor's clock may be off before it is logged.
const skewWorthNoting = 5 * time.Second

// renew gets a token that can be leased now: from storage after a restart, else
// from the vendor if it is needed.
func (b *Broker) renew(ctx context.Context, s logical.Storage, e *entry, needed func(memory, time.Time) bool) (*Reading, error) {
	if e.acquire(ctx) != nil {
		return nil, ErrBusy
	}
	defer e.release()
	m, err := b.current(ctx, s, e)
	if err != nil {
		return nil, err
	}
	if m.unsaved != nil {
		if m, err = b.save(ctx, s, e, m, m.unsaved); err != nil {
			return nil, err
		}
	}
	reading := m.reading(time.Now())
	if reading != nil && !needed(m, time.Now()) {
		return reading, nil
	}
	if m.held(time.Now()) {
		return nil, m.refusal()
	}

	// In the last seconds of the hour the vendor's token dies in the reader's
	// hands, so the second pass is for the next hour's.
	for range 2 {
		if token := m.state.token(); reading == nil && dying(token, time.Now()) {
			if err := sleepUntil(ctx, earlier(token.Boundary, time.Now().Add(boundaryWait))); err != nil {
				return nil, err
			}
		}
		if m, err = b.exchange(ctx, s, e, m); err != nil {
			return nil, err
		}
		if reading = m.reading(time.Now()); reading != nil {
			return reading, nil
		}
	}
	if reading = m.lease(time.Now()); reading != nil {
		return reading, nil
	}
	failure := provider.Errorf(provider.Nonsense, "the vendor's access token lives too short to be leased")
	if boundary := m.state.token().Boundary; !boundary.IsZero() {
		failure = provider.Errorf(provider.Unavailable, "the vendor is too slow to tell whether its token is of the hour that ends or of the next")
	}
	return nil, &ExchangeError{Provider: m.credential.Provider, Err: failure, NextAttempt: time.Now()}
}

// exchange calls the vendor once and keeps what came of it. The caller has the
// exclusive right to the name.
func (b *Broker) exchange(ctx context.Context, s logical.Storage, e *entry, m memory) (memory, error) {
	logger := b.source.Logger().With("name", e.name, "provider", m.credential.Provider)
	next, err := exchange(ctx, m.credential, m.state)
	var failure *provider.Error
	if errors.As(err, &failure) {
		next = next.failed(failure, time.Now())
		logger.Warn("exchange failed", "error", failure.Reason, "failures", next.Failure.Count, "next_attempt", stamp(next.Failure.NextAttempt))
		if next.Grant != m.state.Grant {
			if _, err := b.save(ctx, s, e, m, next); err != nil {
				return m, err
			}
		} else if err := putState(ctx, s, e.name, next); err != nil {
			// A failure that is not written down costs an attempt too early at the most.
			logger.Warn("cannot store the failure", "error", err)
		}
		if err := e.change(m.epoch, func(m *memory) { m.state = next }); err != nil {
			return m, err
		}
		return m, &ExchangeError{Provider: m.credential.Provider, Err: failure, NextAttempt: next.Failure.NextAttempt}
	}
	if err != nil {
		return m, err
	}
	logger.Info("exchange succeeded", "expire_time", stamp(next.token().ExpireTime))
	if skew := next.ClockSkew; skew.Abs() > skewWorthNoting && (skew-m.state.ClockSkew).Abs() > skewWorthNoting {
		logger.Warn("the vendor's clock and this server's differ", "vendor_ahead", skew.String())
	}
	return b.save(ctx, s, e, m, next)
}

// Verify exchanges a credential once that is not stored yet. What it found goes
// into storage with the credential.
func Verify(ctx context.Context, c *Credential, last provider.Grant) (*State, error) {
	return exchange(ctx, c, Unverified(c, last))
}

// exchange calls the vendor once. Its errors are of type *provider.Error; the state
// is then as it was, but for a new grant if the vendor gave one all the same.
func exchange(ctx context.Context, c *Credential, state *State) (*State, error) {
	answer, err := c.Vendor.Exchange(ctx, state.Grant)
	if err != nil {
		return state, asProviderError(err)
	}
	token, err := answer.Token(c.DefaultTTL, state.token())
	if err != nil {
		if answer.Grant != nil {
			state = state.Granted(*answer.Grant)
		}
		return state, asProviderError(err)
	}
	return state.succeeded(c, answer, withBoundary(token, state.token())), nil
}

func asProviderError(err error) error {
	var e *provider.Error
	if errors.As(err, &e) {
		return e
	}
	return provider.Errorf(provider.Unavailable, "%s", err)
}

// save puts a state into storage, in one write, and only then where readers see
// it. A state that cannot be stored is held in memory: it may have the only refresh
// token that works.
func (b *Broker) save(ctx context.Context, s logical.Storage, e *entry, m memory, next *State) (memory, error) {
	err := Retry(ctx, func() error { return putState(ctx, s, e.name, next) })
	if err != nil {
		b.source.Logger().Warn("cannot store what the vendor answered; it is held in memory", "name", e.name, "error", err)
		e.hold(next, err)
		return m, err
	}
	err = e.change(m.epoch, func(m *memory) {
		if next.token().IssueTime != m.state.token().IssueTime {
			m.wanted = false
		}
		m.state = next
		m.unsaved, m.unsavedErr = nil, nil
	})
	return e.look(), err
}

// Retry makes a write that must not be lost for a moment's failure of storage. Its
// error is of type *StorageError.
func Retry(ctx context.Context, write func() error) error {
	var err error
	for _, wait := range saveRetries {
		if waitErr := sleepUntil(ctx, time.Now().Add(wait)); waitErr != nil {
			return &StorageError{errors.Join(err, waitErr)}
		}
		if err = write(); err == nil {
			return nil
		}
	}
	return err
}

// hold keeps a state that storage does not have, or none.
func (e *entry) hold(unsaved *State, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.unsaved, e.memory.unsavedErr = unsaved, err
	e.memory.retryTime = time.Now().Add(saveInterval)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
