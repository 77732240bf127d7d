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

// renew gets a token that can be leased now: from storage after a restart, else
// from the vendor if it is needed.
func (b *Broker) renew(ctx context.Context, s logical.Storage, e *entry, needed func(memory, time.Time) bool) (*Reading, error) {
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	e.renewing(time.Now())
	defer e.renewing(time.Time{})
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
		_, err = e.change(m.epoch, func(m *memory) { m.asked = false })
		return reading, err
	}
	if m.held(time.Now()) {
		return nil, m.refusal()
	}

	// In the last seconds of the hour the vendor's token dies in the reader's
	// hands, so there may be a second pass, for the next hour's.
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
		if m.state.token().Boundary.IsZero() {
			break
		}
	}
	if reading = m.lease(time.Now()); reading != nil {
		return reading, nil
	}
	failure := provider.Errorf(provider.Nonsense, "the vendor's access token lives too short to be leased")
	if !m.state.token().Boundary.IsZero() {
		failure = provider.Errorf(provider.Unavailable, "the vendor is too slow to tell whether its token is of the hour that ends or of the next")
	}
	_, err = b.failed(ctx, s, e, m, m.state, failure)
	return nil, err
}

// exchange calls the vendor once and keeps what came of it. The caller has the
// exclusive right to the name.
func (b *Broker) exchange(ctx context.Context, s logical.Storage, e *entry, m memory) (memory, error) {
	next, err := exchange(ctx, m.credential, m.state)
	b.noteSkew(e, next)
	var failure *provider.Error
	if errors.As(err, &failure) {
		return b.failed(ctx, s, e, m, next, failure)
	}
	b.logger(e, m.credential).Info("exchange succeeded", "expire_time", stamp(next.token().ExpireTime))
	return b.save(ctx, s, e, m, next)
}

// failed keeps a failure, and with it what the state has all the same. Its error is
// of type *ExchangeError, or of *StorageError if a new grant cannot be stored.
func (b *Broker) failed(ctx context.Context, s logical.Storage, e *entry, m memory, state *State, failure *provider.Error) (memory, error) {
	next := state.failed(failure, time.Now())
	logger := b.logger(e, m.credential)
	logger.Warn("exchange failed", "error", failure.Reason, "failures", next.Failure.Count, "next_attempt", stamp(next.Failure.NextAttempt))
	var err error
	if next.Grant != m.state.Grant {
		m, err = b.save(ctx, s, e, m, next)
	} else {
		// A failure that is not written down costs an attempt too early at the most.
		if err := putState(ctx, s, e.name, next); err != nil {
			logger.Warn("cannot store the failure", "error", err)
		}
		m, err = e.change(m.epoch, func(m *memory) { m.state = next })
	}
	if err != nil {
		return m, err
	}
	return m, m.refusal()
}

// Verify exchanges a credential once that is not stored yet. What it found goes
// into storage with the credential; if it failed, there may be a new grant in it all
// the same.
func (b *Broker) Verify(ctx context.Context, name string, c *Credential, last provider.Grant) (*State, error) {
	state, err := exchange(ctx, c, Unverified(c, last))
	b.noteSkew(b.entry(name), state)
	return state, err
}

// exchange calls the vendor once. Its errors are of type *provider.Error; the state
// is then as it was, but for a new grant if the vendor gave one all the same, and
// for what the answer told of the vendor's clock.
func exchange(ctx context.Context, c *Credential, state *State) (*State, error) {
	answer, err := c.Vendor.Exchange(ctx, state.Grant)
	if err != nil {
		failure := asProviderError(err)
		return state.dated(failure.Clock), failure
	}
	token, err := answer.Token(c.DefaultTTL, state.token())
	state = state.dated(answer.Clock)
	if err != nil {
		if answer.Grant != nil {
			state = state.Granted(*answer.Grant)
		}
		return state, asProviderError(err)
	}
	return state.succeeded(c, answer, withBoundary(token, state.token())), nil
}

func asProviderError(err error) *provider.Error {
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
	if err := Retry(ctx, func() error { return putState(ctx, s, e.name, next) }); err != nil {
		b.logger(e, m.credential).Warn("cannot store what the vendor answered; it is held in memory", "error", err)
		e.hold(next, err)
		return m, err
	}
	return e.change(m.epoch, func(m *memory) {
		if last := m.state.token(); next.token().IssueTime != last.IssueTime {
			// Of a reader who waited for this token it is known that he comes back if
			// he has used the last one.
			m.wanted = m.asked && inUse(last, time.Now())
			m.asked = false
		}
		m.state = next
		m.unsaved, m.unsavedErr = nil, nil
	})
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

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func sleepUntil(ctx context.Context, t time.Time) error {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
