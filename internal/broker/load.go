package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// loadName loads a name into memory, if necessary, and returns its record. It waits for the lock of
// the name.
func (b *Broker) loadName(ctx context.Context, s logical.Storage, name string) (r *record, err error) {
	r, unlock, err := b.lockRecord(ctx, name, pacing.Awaited)
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer b.contain(r, &err)
	r.noteNeeded() // the caller uses the record without the lock
	_, err = b.load(ctx, s, r)
	return r, err
}

// existing returns the record of a name that is in storage. The error is ErrUnknown if the name is
// not in storage.
func (b *Broker) existing(ctx context.Context, s logical.Storage, name string) (*record, error) {
	if r := b.cached(name); r != nil && r.get().presence != absent {
		return r, nil
	}
	return b.loadName(ctx, s, name)
}

// load reads a name from storage, if it is not in memory yet. The caller holds the lock of the
// name. The errors are ErrUnknown, ErrPanicked, those of Source.Credential, and of type
// *storage.Error.
func (b *Broker) load(ctx context.Context, s logical.Storage, r *record) (snapshot, error) {
	for {
		snap := r.get()
		if snap.presence == loaded {
			return snap, nil
		}
		if time.Now().Before(snap.panicPause) {
			return snap, ErrPanicked
		}
		credential, state, stored, err := b.readCredential(ctx, s, r.name)
		if storage.IsError(err) {
			return snap, err
		}
		snap, superseded := r.update(snap.epoch, func(snap *snapshot) {
			snap.credential, snap.state, snap.panicPause = credential, state, time.Time{}
			if snap.isAhead = false; err == nil && !r.seen.IsZero() {
				snap.state = state.seenSince(r.seen)
			}
			switch {
			case err == nil:
				snap.presence = loaded
			case errors.Is(err, ErrUnknown):
				snap.presence = absent
			default:
				snap.presence = unusable
			}
			if snap.unsaved != nil && err == nil {
				unsaved := *snap.unsaved
				unsaved.state = unsaved.state.underClient(credential)
				snap.unsaved = unsaved.rebase(state)
			}
			r.stored = stored
		})
		if superseded == nil { // otherwise another node has written in the meantime
			client := ""
			if err == nil {
				client = credential.Client
			}
			b.noteLoaded(r, client)
			return snap, err
		}
	}
}

// lookup returns the snapshot of a name, from storage if it is not in memory. It neither waits for
// a lock nor caches the result.
func (b *Broker) lookup(ctx context.Context, s logical.Storage, name string) (snapshot, error) {
	var snap snapshot
	if r := b.cached(name); r != nil {
		snap = r.get()
	}
	if snap.presence == loaded {
		return snap, nil
	}
	var err error
	snap.credential, snap.state, _, err = b.readCredential(ctx, s, name)
	return snap, err
}

// readCredential reads a credential and its state from storage.
func (b *Broker) readCredential(ctx context.Context, s logical.Storage, name string) (*Credential, *State, *storedState, error) {
	credential, err := b.source.Credential(ctx, s, name)
	if err != nil {
		return nil, nil, nil, err
	}
	if credential == nil {
		return nil, nil, nil, ErrUnknown
	}
	state, stored, err := b.readState(ctx, s, credential)
	if err != nil {
		return nil, nil, nil, err
	}
	return credential, state, stored, nil
}

// readState reads the state of a credential from storage.
func (b *Broker) readState(ctx context.Context, s logical.Storage, credential *Credential) (*State, *storedState, error) {
	all, err := readEntries(ctx, s, credential.Name)
	if err != nil {
		return nil, nil, err
	}
	for _, key := range all.damaged {
		b.source.Logger().Warn("a storage entry cannot be decoded; the next exchange replaces it", "name", credential.Name, "entry", key)
	}
	verified := credential.Verified
	if verified == nil {
		verified = Unverified(credential, provider.Grant{})
	}
	state, stored := all.applyTo(verified)
	return state.asOf(time.Now()).underClient(credential), stored, nil
}
