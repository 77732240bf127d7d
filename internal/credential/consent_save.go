package credential

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// A keptConsent is the result of a consent. The credential is built from what is stored when it is written.
type keptConsent struct {
	vendor         string // of the credential
	generation, of string // of the credential with the refresh token, and of the one before
	sentTo         Destinations
	refreshToken   string
	verified       *broker.State
	consented      *Consented
	attempt        *ConsentAttempt

	err error // why storage has not accepted it
}

// reason returns why storage has not accepted the result.
func (k *keptConsent) reason() string {
	if k.err == nil {
		return ""
	}
	return k.err.Error()
}

// refusedBy returns the result with the reason why storage has not accepted it.
func (k *keptConsent) refusedBy(err error, vendor string) *keptConsent {
	next := *k // others may read the one that is kept
	next.err, next.vendor = err, vendor
	return &next
}

// keptConsents has the results of consents that storage did not accept, by the names of the credentials
// (guarantee 3). They are stored as soon as storage accepts them. It is safe for concurrent use.
type keptConsents struct {
	mu   sync.Mutex
	kept map[string]*keptConsent
}

func (k *keptConsents) put(name string, c *keptConsent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kept == nil {
		k.kept = map[string]*keptConsent{}
	}
	k.kept[name] = c
}

func (k *keptConsents) get(name string) *keptConsent {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept[name]
}

func (k *keptConsents) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.kept, name)
}

func (k *keptConsents) all() map[string]*keptConsent {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[string]*keptConsent{}
	maps.Copy(all, k.kept)
	return all
}

// Statuses is broker.Statuses with the results of consents that are only in memory, and with the rotations of key
// pairs. Nobody needs to consent to such a credential again.
func (st *Store) Statuses() iter.Seq2[string, *broker.Status] {
	return func(yield func(string, *broker.Status) bool) {
		kept := st.keptConsents.all()
		for name, status := range st.broker.Statuses() {
			if k := kept[name]; k != nil {
				delete(kept, name)
				if status.IsUnread {
					*status = broker.Status{Vendor: k.vendor, CanConsent: true}
				}
				status.StorageError, status.NeedsConsent = k.err, false
			}
			st.AddUnsavedRotation(name, status)
			if set, isKnown := st.keySets.get(status.Keypair); isKnown && set != nil && status.Rotation == nil {
				status.SetRotation(set.rotation.status())
			}
			if !yield(name, status) {
				return
			}
		}
		for name, k := range kept { // the credential is not in memory
			if !yield(name, &broker.Status{Vendor: k.vendor, CanConsent: true, StorageError: k.err}) {
				return
			}
		}
	}
}

// saveConsent stores a credential with the result of a consent, or keeps the result in memory.
func (st *Store) saveConsent(ctx context.Context, s logical.Storage, change *broker.Change, stored *storedCredential, kept *keptConsent) error {
	name := stored.name
	defer func() {
		if recovered := recover(); recovered != nil { // the caller reports it
			st.keptConsents.put(name, kept.refusedBy(errInternal, stored.vendor.Name()))
			panic(recovered)
		}
	}()
	fields := maps.Clone(stored.Fields)
	fields["refresh_token"] = kept.refreshToken
	if stored.Fields["refresh_token"] != nil && isDue(stored.text("expires"), kept.consented.Time) {
		delete(fields, "expires") // it is of the former refresh token
	}
	next, opened, err := st.build(revision{
		vendor: stored.vendor, name: name, fields: fields, key: stored.key, client: stored.client, generation: kept.generation, time: kept.consented.Time, consented: kept.consented,
		refreshTokenTime: kept.consented.Time, rotation: stored.Rotation,
	})
	if err == nil && !Destinations(opened.SentTo).within(kept.sentTo) {
		err = errChanged // by its client or the definition of its vendor
	}
	if err == nil {
		planned := plannedWrite{replacement: replacement{stored: stored, known: stored.latestState(change.Known), next: next, credential: opened}}
		planned.replacement = planned.withVerified(kept.verified)
		if err = st.commit(ctx, s, change, planned); err != nil {
			err = change.Failed(ctx, planned.answered(), err)
		}
	}
	switch {
	case storage.IsError(err):
		st.keptConsents.put(name, kept.refusedBy(err, stored.vendor.Name()))
		return &ConsentError{Reason: ReasonUnsaved, Name: name, Err: err}
	case err != nil:
		return st.dropKept(ctx, s, name, kept, err)
	}
	st.keptConsents.drop(name)
	st.putEnd(ctx, s, name, kept.attempt) // the credential's entry says so too
	return nil
}

// isDue reports whether a field expires asks for a consent at a time.
func isDue(expires string, at time.Time) bool {
	t, err := parseExpires(expires)
	return err == nil && !t.IsZero() && t.Before(at.Add(broker.SecretHorizon))
}

// saveKept stores the result of a consent that storage did not accept before. Without one, the attempt c was
// used up already. The caller holds the lock of the consent.
func (st *Store) saveKept(ctx context.Context, s logical.Storage, name string, c *ConsentAttempt) error {
	kept := st.keptConsents.get(name)
	if kept == nil || c != nil && string(kept.attempt.Digest) != string(c.Digest) {
		return &ConsentError{Reason: ReasonUsed, Name: name}
	}
	n, err := st.lockConnection(ctx, s, name)
	switch {
	case storage.IsError(err) || errors.Is(err, broker.ErrBusy) || errors.Is(err, broker.ErrClosed):
		return &ConsentError{Reason: ReasonUnsaved, Name: name, Err: err}
	case errors.Is(err, broker.ErrUnknown): // deleted, and what says so as well
		st.keptConsents.drop(name)
		return &ConsentError{Reason: ReasonChanged, Name: name, Err: errChanged}
	case err != nil:
		return st.dropKept(ctx, s, name, kept, err)
	}
	defer n.end()
	switch n.stored.Generation {
	case kept.generation: // the write succeeded, although storage said otherwise
		st.keptConsents.drop(name)
		st.putEnd(n.ctx, s, name, kept.attempt)
		return nil
	case kept.of:
		return st.saveConsent(n.ctx, s, n.changes.Of(name), n.stored, kept)
	}
	return st.dropKept(n.ctx, s, name, kept, errChanged)
}

// dropKept gives up the result of a consent to a credential that cannot have it any more, and says so.
func (st *Store) dropKept(ctx context.Context, s logical.Storage, name string, kept *keptConsent, err error) error {
	st.keptConsents.drop(name)
	st.putEnd(ctx, s, name, kept.attempt.end(ConsentFailed, "the refresh token was dropped, as it could not be stored: "+err.Error()))
	st.Logger().Warn("a consent failed", "name", name, "error", err)
	return &ConsentError{Reason: ReasonChanged, Name: name, Err: err}
}

// errInternal is why the result of a consent is kept after a panic.
var errInternal = errors.New("internal error; see the server's log")

// saveTimeout bounds SaveConsents.
const saveTimeout = 10 * time.Second

// SaveConsents stores the results of consents that storage did not accept before. It does not wait for one that
// takes longer than saveTimeout, which goes on (guarantee 11).
func (st *Store) SaveConsents(ctx context.Context, s logical.Storage) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(st.keptConsents.all())) {
		if ctx.Err() != nil {
			return
		}
		unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
		if err != nil {
			return
		}
		saved := make(chan error, 1)
		go func() {
			defer unlock()
			defer func() {
				if recovered := recover(); recovered != nil {
					saved <- broker.Panicked(st.Logger().With("name", name), recovered)
				}
			}()
			saved <- st.saveKept(ctx, s, name, nil)
		}()
		select {
		case err = <-saved:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if st.keptConsents.get(name) != nil {
			st.Logger().Warn("the refresh token of a consent is not in storage yet", "name", name, "error", err)
		}
	}
}
