package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"
)

const (
	// renewTimeout bounds the waiting of a renewal: for its turn, for storage and for the
	// hour. No exchange begins after it.
	renewTimeout = 3 * time.Minute

	// exchangeTimeout bounds an exchange that has begun, from the call to the write of what
	// the vendor answered. Its requests take less than 8 minutes: request_timeout is a
	// minute at most, an issuer's metadata are at one of three places, and a credential may
	// have a second way to a token. So there is time to write the last answer, too.
	exchangeTimeout = 10 * time.Minute

	// patience is how long after a renewal has begun a reader waits for it who could
	// have a good token.
	patience = 2 * time.Second
)

// Read returns a token of the named credential that can be leased now: the cached
// one while it is fresh, or else one that the vendor is asked for, once for all
// readers. While there is a good token a reader gets one, whatever the vendor does.
func (b *Broker) Read(ctx context.Context, s logical.Storage, name string, request ReadRequest) (*IssuedToken, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	for {
		reading, err := b.read(ctx, s, e, request)
		// A reader who waited for a renewal across a change starts anew.
		if !errors.Is(err, errSuperseded) {
			return reading, err
		}
	}
}

func (b *Broker) read(ctx context.Context, s logical.Storage, e *entry, request ReadRequest) (*IssuedToken, error) {
	v, begun, err := b.want(ctx, s, e, request.Scope)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	reading := v.reading(now, request.MinTTL)
	switch {
	case reading != nil && !v.due(now, request.MinTTL):
		return reading, nil
	case reading == nil && v.held(now):
		return nil, v.refusal()
	}
	e.ask(v.scope)
	// A reader for whom the token at hand is too short waits for the next.
	good := reading != nil && !v.short(now, request.MinTTL)
	wait := patience
	if !begun.IsZero() {
		wait -= now.Sub(begun)
	}
	if good && wait <= 0 {
		return reading.late(now), nil
	}
	flight := b.renewed(ctx, s, task{entry: e, epoch: v.epoch, scope: v.scope, minTTL: request.MinTTL, short: v.token().IssueTime})
	var impatient <-chan time.Time
	if good {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		impatient = timer.C
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-impatient:
		if reading = e.reading(request); reading != nil {
			return reading.late(time.Now()), nil
		}
		return b.read(ctx, s, e, request)
	case result := <-flight:
		if result.Err == nil {
			waited := *result.Val.(*IssuedToken) // which others have too
			if waited.Outcome == Cached {
				waited.Outcome = Exchanged
			}
			return &waited, nil
		}
		if errors.Is(result.Err, errSuperseded) {
			return nil, result.Err
		}
		// The vendor's bad day costs nothing while the token lives.
		if reading = e.reading(request); reading != nil {
			return reading, nil
		}
		return nil, result.Err
	}
}

// want notes that somebody asks for a token of a scope, and returns what is known,
// loaded from storage if need be, and when the renewal began that is under way, of
// whatever scope; the zero time is none.
func (b *Broker) want(ctx context.Context, s logical.Storage, e *entry, scope string) (view, time.Time, error) {
	for {
		if v, begun, loaded := e.want(scope); loaded {
			return v, begun, nil
		}
		if err := b.loaded(ctx, s, e); err != nil {
			return view{}, time.Time{}, err
		}
	}
}

func (e *entry) want(scope string) (v view, begun time.Time, isLoaded bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.memory.credential == nil {
		return view{}, time.Time{}, false
	}
	v = e.memory.view(scope)
	if u, now := e.uses[v.scope], time.Now(); !u.wanted || now.Sub(u.last) > useAccuracy {
		u.wanted, u.last = true, now
		e.uses[v.scope] = u
	}
	return v, e.renewal.since, true
}

// ask notes that somebody waits for a fresher token.
func (e *entry) ask(scope string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.uses[scope]
	u.asked = true
	e.uses[scope] = u
}

// reading is what a reader gets now; nil if there is no good token.
func (e *entry) reading(request ReadRequest) *IssuedToken {
	m := e.look()
	if m.credential == nil {
		return nil
	}
	return m.view(request.Scope).reading(time.Now(), request.MinTTL)
}

// loaded waits until what storage has of the name is in memory.
func (b *Broker) loaded(ctx context.Context, s logical.Storage, e *entry) error {
	flight := b.flight(ctx, e, e.look().epoch, "load", func(ctx context.Context) (any, error) {
		return nil, b.load(ctx, s, e)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case result := <-flight:
		return result.Err
	}
}

// load loads what storage has of the name into memory.
func (b *Broker) load(ctx context.Context, s logical.Storage, e *entry) (err error) {
	if err := e.acquire(ctx); err != nil {
		return err
	}
	defer b.leave(e)
	defer b.contain(e, &err)
	_, err = b.current(ctx, s, e)
	return err
}

// renewed joins the renewal that is under way, or starts one, unless it turns out
// that none is needed.
func (b *Broker) renewed(ctx context.Context, s logical.Storage, t task) <-chan singleflight.Result {
	name := fmt.Sprintf("renew/%t/%d/%s", t.unasked, t.minTTL, t.scope)
	return b.flight(ctx, t.entry, t.epoch, name, func(ctx context.Context) (any, error) { return b.renew(ctx, s, t) })
}

// flight joins the flight of an epoch that has a name, or starts it. It outlives the
// reader who caused it: others wait for it, and what the vendor answers must be kept.
// A reader who started after a change must not join a flight of before.
func (b *Broker) flight(ctx context.Context, e *entry, epoch uint64, name string, f func(context.Context) (any, error)) <-chan singleflight.Result {
	return e.flights.DoChan(fmt.Sprintf("%d/%s", epoch, name), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
		defer cancel()
		return f(ctx)
	})
}

// seenThrough returns the context of an exchange that begins now: what the vendor answers must
// be kept, however long its caller has waited before.
func seenThrough(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), exchangeTimeout)
}

// FormatTime returns a time as every answer, log line and event has it: RFC 3339 in UTC, cut to
// the second, so that no token is said to be valid for longer than it is.
func FormatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
