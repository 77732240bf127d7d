package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

const (
	// renewTimeout bounds how long a renewal waits for the lock of its name, for storage, and for a
	// token's RenewableFrom. No exchange begins after it.
	renewTimeout = 3 * time.Minute

	// exchangeTimeout bounds an exchange, from the wait for its turn to the write of its result. The wait takes at
	// most pacing.Patience, and the proof that storage accepts writes what is left of the renewal. The
	// requests take less than 8 minutes: each takes at most the maximum request_timeout of one
	// minute, an issuer's metadata may be at three addresses, and a credential may have a fallback.
	// The rest is for the write.
	exchangeTimeout = pacing.Patience + renewTimeout + 10*time.Minute

	// patience is how long a reader with a valid token waits for a renewal, from the start of the
	// operation that renews it.
	patience = 2 * time.Second
)

// Read returns a token of the named credential that can be leased now: the cached one, or a new one
// that concurrent readers share. While there is a valid token, a reader gets one, whatever the
// vendor does. The errors are ErrUnknown, ErrBusy, ErrClosed, ErrPanicked, of type *ExchangeError,
// of type *storage.Error, and those of Source.Credential.
func (b *Broker) Read(ctx context.Context, s logical.Storage, name string, request ReadRequest) (*IssuedToken, error) {
	for {
		issued, err := b.read(ctx, s, name, request)
		// A reader starts again if the credential has changed while it waited for a renewal.
		if !errors.Is(err, errSuperseded) {
			return issued, err
		}
	}
}

func (b *Broker) read(ctx context.Context, s logical.Storage, name string, request ReadRequest) (*IssuedToken, error) {
	r, v, began, err := b.loadForRead(ctx, s, name, request.Scope)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	d := demand{minTTL: request.MinTTL, shortIssueTime: v.token().IssueTime}
	act, _ := v.decide(d, now)
	switch act {
	case serve:
		return v.issued(now, request.MinTTL), nil
	case fail:
		return nil, v.backOffError()
	}
	r.noteAwaited(v.scope, act.urgency())
	var patienceEnds <-chan time.Time
	if act == renewAhead {
		wait := patience
		if !began.IsZero() {
			wait -= now.Sub(began)
		}
		if wait <= 0 {
			return v.issued(now, request.MinTTL).stale(now), nil
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		patienceEnds = timer.C
	}
	renewed := b.renewShared(ctx, s, task{record: r, epoch: v.epoch, scope: v.scope, isChosen: request.IsChosen, demand: d})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-patienceEnds:
		if issued := r.fresh(request); issued != nil {
			return issued.stale(time.Now()), nil
		}
		return b.read(ctx, s, name, request)
	case result := <-renewed:
		if result.Err == nil {
			shared := *result.Val.(*IssuedToken) // a copy, as all waiting readers share the result
			if shared.Outcome == Cached {
				shared.Outcome = Exchanged
			}
			return &shared, nil
		}
		if errors.Is(result.Err, errSuperseded) {
			return nil, result.Err
		}
		// An outage has no effect on readers while the cached token is valid. (Guarantee 4.)
		if issued := r.fresh(request); issued != nil {
			return issued.unrenewed(result.Err), nil
		}
		return nil, result.Err
	}
}

// loadForRead records a read of a scope and returns the snapshot for it. It loads the name if
// necessary. It also returns the start of the operation that is running for the name, or the zero
// time.
func (b *Broker) loadForRead(ctx context.Context, s logical.Storage, name, scope string) (*record, scopeSnapshot, time.Time, error) {
	for {
		key := name
		if r := b.cached(name); r != nil {
			if v, began, isLoaded := r.noteRead(scope); isLoaded {
				return r, v, began, nil
			}
			if snap := r.get(); snap.presence != absent {
				key = fmt.Sprintf("%s/%d", name, snap.epoch)
			}
		}
		if err := b.loadShared(ctx, s, key, name); err != nil {
			return nil, scopeSnapshot{}, time.Time{}, err
		}
	}
}

// loadShared loads a name for a reader, or joins a running load with the same key. The load
// outlives the reader, since others wait for it. The key contains the epoch of the name, so that a
// reader that starts after a change does not join an older load.
func (b *Broker) loadShared(ctx context.Context, s logical.Storage, key, name string) error {
	done := b.loads.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
		defer cancel()
		return b.loadName(ctx, s, name)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case result := <-done:
		return result.Err
	}
}

// fresh returns the cached token for a reader; nil if there is no valid one.
func (r *record) fresh(request ReadRequest) *IssuedToken {
	snap := r.get()
	if snap.presence != loaded {
		return nil
	}
	return snap.of(request.Scope).fresh(time.Now(), request.MinTTL)
}
