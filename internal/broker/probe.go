package broker

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// probeTime is the maximum duration of a write that proves the node active. A node that is
	// suspended during a write may find it done when it resumes. No storage makes another node
	// active in a shorter time. On storage that is always slower, probeAttempts limits the writes.
	probeTime     = 500 * time.Millisecond
	probeAttempts = 3
)

// probeWritable checks that storage accepts writes before the engine uses a refresh token that the
// vendor rotates. Otherwise the next refresh token could be lost. Moreover, a node that was
// suspended or disconnected may wrongly believe that it is still active. The active node has then
// used the refresh token, and some vendors end a credential whose refresh token is used twice.
// Storage does not accept the writes of such a node. The error is of type *storage.Error.
func probeWritable(ctx context.Context, s logical.Storage, used provider.Grant) error {
	if used.RefreshToken == "" || used.Derived {
		return nil
	}
	return probe(ctx, s)
}

// A prover proves before the first request of an exchange that storage accepts writes.
type prover struct {
	renewal context.Context // bounds the writes
	storage logical.Storage
	used    provider.Grant

	isDone  bool
	failure error
}

// prove writes to storage the first time, and returns the same error each time: ErrBusy if the time of the renewal was
// up before, or one of type *storage.Error.
func (p *prover) prove() error {
	if p.isDone {
		return p.failure
	}
	p.isDone = true
	if p.renewal.Err() != nil {
		p.failure = ErrBusy
	} else {
		p.failure = probeWritable(p.renewal, p.storage, p.used)
	}
	return p.failure
}

func probe(ctx context.Context, s logical.Storage) error {
	for range probeAttempts {
		began := wallClock()
		if err := storage.Retry(ctx, func() error { return storage.Probe(ctx, s) }); err != nil {
			return err
		}
		if wallClock().Sub(began) < probeTime {
			break
		}
	}
	return nil
}

// wallClock returns the time of the clock that keeps running while the machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }
