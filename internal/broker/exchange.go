package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// renew gets a token that can be leased now: from storage after a restart, else
// from the vendor.
func (b *Broker) renew(ctx context.Context, s logical.Storage, e *entry, epoch uint64) (*Reading, error) {
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	state, err := b.current(ctx, s, e)
	if err != nil {
		return nil, err
	}
	credential, _, present := e.snapshot()
	if present != epoch {
		return nil, errSuperseded
	}
	if r := read(credential, state, time.Now()); r != nil {
		return r, nil
	}

	// In the last seconds of the hour the vendor's token dies in the reader's
	// hands, so the second pass is for the next hour's.
	patience := time.Now().Add(boundaryWait)
	for range 2 {
		if token := state.Tokens[ownScope]; dying(token, time.Now()) {
			if err := sleepUntil(ctx, earlier(token.Boundary, patience)); err != nil {
				return nil, err
			}
		}
		if state, err = exchange(ctx, credential, state); err != nil {
			return nil, err
		}
		// In storage first, in one write: what a reader has seen, a restart finds.
		if err := putState(ctx, s, e.name, state); err != nil {
			return nil, err
		}
		if err := e.keep(credential, state, epoch); err != nil {
			return nil, err
		}
		if r := read(credential, state, time.Now()); r != nil {
			return r, nil
		}
	}
	if r := lease(credential, state.Tokens[ownScope], time.Now()); r != nil {
		return r, nil
	}
	return nil, failure(credential, provider.Errorf(provider.Nonsense, "the vendor's access token lives too short to be leased"))
}

// Verify exchanges a credential once that is not stored yet. What it found goes
// into storage with the credential.
func Verify(ctx context.Context, c *Credential, last provider.Grant) (*State, error) {
	return exchange(ctx, c, Unverified(c, last))
}

// Unverified is what is known of a credential that is to be stored unchecked.
func Unverified(c *Credential, last provider.Grant) *State {
	return &State{Version: stateVersion, Generation: c.Generation, Grant: last}
}

// An ExchangeError is why there is no token of a credential.
type ExchangeError struct {
	Provider string
	Err      *provider.Error
}

func (e *ExchangeError) Error() string { return e.Err.Error() }
func (e *ExchangeError) Unwrap() error { return e.Err }

// exchange calls the vendor once. Its errors are of type *ExchangeError.
func exchange(ctx context.Context, c *Credential, state *State) (*State, error) {
	answer, err := c.Vendor.Exchange(ctx, state.Grant)
	if err != nil {
		return nil, failure(c, err)
	}
	token, err := answer.Token(c.DefaultTTL, state.Tokens[ownScope])
	if err != nil {
		return nil, failure(c, err)
	}
	return state.with(token, answer.Grant), nil
}

func failure(c *Credential, err error) error {
	var e *provider.Error
	if !errors.As(err, &e) {
		e = provider.Errorf(provider.Unavailable, "%s", err)
	}
	return &ExchangeError{Provider: c.Provider, Err: e}
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
