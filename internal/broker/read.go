package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// renewTimeout bounds a renewal with all that belongs to it: loading, waiting
	// for the hour, the vendor's calls (each of which has a timeout of its own) and
	// the write.
	renewTimeout = 3 * time.Minute

	// patience is how long after a renewal has begun a reader waits for it who could
	// have a good token.
	patience = 2 * time.Second
)

// A Reading is a token and for how long it may be leased.
type Reading struct {
	provider.Token
	Provider string

	// TTL is the longest lease that ends before the token may be dead less the
	// margin, in whole seconds, at least one.
	TTL time.Duration

	// Warning is why there is no fresher token, if there ought to be one.
	Warning string
}

// An ExchangeError is why there is no token of a credential.
type ExchangeError struct {
	Provider string
	Err      *provider.Error

	// NextAttempt is when the vendor may be called again, whoever asks.
	NextAttempt time.Time
}

func (e *ExchangeError) Error() string { return e.Err.Error() }
func (e *ExchangeError) Unwrap() error { return e.Err }

// Read returns a token of the named credential that can be leased now: the cached
// one while it is fresh, or else one that the vendor is asked for, once for all
// readers. While there is a good token a reader gets one, whatever the vendor does.
func (b *Broker) Read(ctx context.Context, s logical.Storage, name string) (*Reading, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	for {
		reading, err := b.read(ctx, s, e)
		// A reader who waited for a renewal across a change starts anew.
		if !errors.Is(err, errSuperseded) {
			return reading, err
		}
	}
}

func (b *Broker) read(ctx context.Context, s logical.Storage, e *entry) (*Reading, error) {
	m, renewal := e.want()
	now := time.Now()
	reading := m.reading(now)
	switch {
	case reading != nil && !m.due(now):
		return reading, nil
	case reading == nil && m.held(now):
		return nil, m.refusal()
	}
	e.ask()
	wait := patience
	if !renewal.IsZero() {
		wait -= now.Sub(renewal)
	}
	if reading != nil && wait <= 0 {
		return reading.late(), nil
	}
	flight := b.renewed(ctx, s, e, m.epoch, memory.due)
	var impatient <-chan time.Time
	if reading != nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		impatient = timer.C
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-impatient:
		if reading = e.look().reading(time.Now()); reading != nil {
			return reading.late(), nil
		}
		return b.read(ctx, s, e)
	case result := <-flight:
		if result.Err == nil {
			return result.Val.(*Reading), nil
		}
		if errors.Is(result.Err, errSuperseded) {
			return nil, result.Err
		}
		// The vendor's bad day costs nothing while the token lives.
		if reading = e.look().reading(time.Now()); reading != nil {
			return reading, nil
		}
		return nil, result.Err
	}
}

// late says why the reading is not of a fresher token.
func (r *Reading) late() *Reading {
	r.Warning = fmt.Sprintf("the vendor has not answered yet; this token is good until %s", stamp(r.ExpireTime))
	return r
}

// want notes that somebody asks for a token, and returns what is known, and since
// when a renewal has been under way.
func (e *entry) want() (memory, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.wanted = true
	return e.memory, e.renewal
}

// ask notes that somebody waits for a fresher token.
func (e *entry) ask() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.asked = true
}

// reading is what a reader gets from memory; nil if there is no good token, or if a
// better one is seconds away.
func (m memory) reading(now time.Time) *Reading {
	if m.credential == nil {
		return nil
	}
	if dying(m.state.token(), now) && !m.held(now) {
		return nil
	}
	return m.lease(now)
}

// lease is what a reader gets if there is nothing better to be had.
func (m memory) lease(now time.Time) *Reading {
	token := m.state.token()
	ttl := leaseTTL(token, now)
	if ttl == 0 {
		return nil
	}
	r := &Reading{Token: token, Provider: m.credential.Provider, TTL: ttl}
	switch failure := m.state.Failure; {
	case m.unsaved != nil:
		r.Warning = fmt.Sprintf("a fresher token cannot be stored (%s); this one is good until %s", m.unsavedErr, stamp(token.ExpireTime))
	case failure.Count > 0:
		r.Warning = fmt.Sprintf("the vendor gives no fresher token (%s); this one is good until %s; next attempt at %s",
			failure.Reason, stamp(token.ExpireTime), stamp(failure.NextAttempt))
	}
	return r
}

// due is whether a renewal can help now.
func (m memory) due(now time.Time) bool {
	if m.credential == nil {
		return true
	}
	return !m.held(now) && (m.unsaved != nil || !now.Before(refreshTime(m.state.token())))
}

// held is whether the vendor, or the storage, is to be left alone for now.
func (m memory) held(now time.Time) bool {
	if m.credential == nil {
		return false
	}
	return now.Before(m.state.Failure.NextAttempt) || m.unsaved != nil && now.Before(m.retryTime)
}

// refusal is why a reader gets nothing while attempts are held.
func (m memory) refusal() error {
	if m.unsaved != nil {
		return m.unsavedErr
	}
	failure := m.state.Failure
	return &ExchangeError{
		Provider:    m.credential.Provider,
		Err:         &provider.Error{Kind: failure.Kind, Reason: failure.Reason},
		NextAttempt: failure.NextAttempt,
	}
}

// renewed joins the renewal that is under way, or starts one, unless it turns out
// that none is needed. It outlives the reader who caused it: others wait for it,
// and what the vendor answers must be kept.
func (b *Broker) renewed(ctx context.Context, s logical.Storage, e *entry, epoch uint64, needed func(memory, time.Time) bool) <-chan singleflight.Result {
	// A reader that started after a change must not join a renewal of before.
	return e.flights.DoChan(strconv.FormatUint(epoch, 10), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
		defer cancel()
		return b.renew(ctx, s, e, needed)
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
