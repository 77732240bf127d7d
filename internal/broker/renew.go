package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

// This file renews tokens for readers (read.go) and in the background (sweep.go). The refresh by an
// operator (forced_refresh.go), the write of a credential (change.go) and the read of a dedicated
// role (dedicate.go) make exchanges of their own. Vault's leases are never renewed.

// A task is a renewal that may be necessary.
type task struct {
	record *record
	epoch  uint64
	scope  string

	// isChosen is as ReadRequest.IsChosen.
	isChosen bool

	demand demand
}

// urgency returns how urgent the exchange of a task is: those of readers who wait come first, then those of
// tokens that readers will ask for.
func (t task) urgency(act action) pacing.Priority {
	switch {
	case !t.demand.isBackground && act != renewAhead:
		return pacing.Awaited
	case t.demand.inUse, !t.demand.isBackground:
		return pacing.Ahead
	}
	return pacing.Background
}

// renewShared renews a token if necessary, or joins the same renewal if it is running. The renewal
// outlives its reader, since others wait for it and the vendor's answer must be stored. Because of
// the epoch, a reader that starts after a change of the credential does not join an older renewal.
func (b *Broker) renewShared(ctx context.Context, s logical.Storage, t task) <-chan singleflight.Result {
	key := fmt.Sprintf("%d/%t/%t/%d/%s", t.epoch, t.demand.isBackground, t.isChosen, t.demand.minTTL, t.scope)
	return t.record.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
		defer cancel()
		return b.renew(ctx, s, t)
	})
}

// renew returns a token that can be leased now: the cached one if another renewal has met the
// demand in the meantime, else a new one. For the background it may return nil.
func (b *Broker) renew(ctx context.Context, s logical.Storage, t task) (issued *IssuedToken, err error) {
	r, unlock, err := b.lockRecord(ctx, t.record.name, t.urgency(renewNow))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r != t.record { // the name was deleted in the meantime
		return nil, errSuperseded
	}
	defer b.contain(r, &err)
	r.setRunning(operation{since: time.Now()})
	defer r.setRunning(operation{})
	snap, err := b.load(ctx, s, r)
	if err != nil {
		return nil, err
	}
	v := snap.of(t.scope)
	if v.unsaved.writeFor(v.scope) != nil {
		if snap, err = b.saveUnsavedScope(ctx, s, r, v); err != nil {
			return nil, err
		}
		v = v.withSnapshot(snap)
	}
	now := time.Now()
	act, _ := v.decide(t.demand, now)
	var early map[string]time.Time // as it was
	switch act {
	case serve:
		_, err = r.update(v.epoch, func(*snapshot) { r.noteServedLocked(v.scope) })
		return v.issued(now, t.demand.minTTL), err
	case fail:
		return nil, v.backOffError()
	case renewEarly:
		early = snap.early
		if snap, err = r.update(v.epoch, func(snap *snapshot) { v.noteEarly(snap, now) }); err != nil {
			return nil, err
		}
		v = v.withSnapshot(snap)
	}
	r.raise(t.urgency(act))
	if t.isChosen {
		err = b.checkVariants(v)
	}
	if err == nil {
		issued, err = b.exchangeForToken(ctx, s, r, v, t.demand.minTTL)
	}
	if isRefused(err) {
		r.noteRefused(v.scope)
	}
	if act == renewEarly && isUnsent(err) {
		if _, err := r.update(v.epoch, func(snap *snapshot) { snap.early = early }); err != nil {
			return nil, err
		}
	}
	return issued, err
}

// exchangeForToken exchanges the credential until there is a token that can be leased. That takes
// two exchanges if the first token expires before it can be leased, and the vendor has the next one
// from then on.
func (b *Broker) exchangeForToken(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot, minTTL time.Duration) (*IssuedToken, error) {
	for _, mayRepeat := range []bool{true, false} {
		if token, now := v.token(), time.Now(); isExpiring(token, now) && v.fresh(now, minTTL) == nil {
			if err := sleepUntil(ctx, minTime(token.RenewableFrom, now.Add(expiringTime)), b.closed); err != nil {
				return nil, err
			}
		}
		if isClosed(b.closed) {
			return nil, ErrClosed
		}
		var err error
		if v, err = b.exchangeScope(ctx, s, r, v, mayRepeat); err != nil {
			return nil, err
		}
		if issued := v.fresh(time.Now(), minTTL); issued != nil {
			return issued, nil
		}
		if v.token().RenewableFrom.IsZero() {
			break
		}
	}
	if issued := v.issued(time.Now(), minTTL); issued != nil {
		return issued, nil
	}
	return nil, v.expiredMeanwhile(time.Now())
}

// sleepUntil waits until a time, unless the context or the engine ends first.
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
