package credential

import (
	"context"
	"errors"
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
	generation, of string // of the credential with the refresh token, and of the one before
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

func (k *keptConsents) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.kept))
}

// saveConsent stores a credential with the result of a consent, or keeps the result in memory.
func (st *Store) saveConsent(ctx context.Context, s logical.Storage, change *broker.Change, stored *storedCredential, kept *keptConsent) error {
	name := stored.name
	fields := maps.Clone(stored.Fields)
	fields["refresh_token"] = kept.refreshToken
	if stored.Fields["refresh_token"] != nil && isDue(stored.text("expires"), kept.consented.Time) {
		delete(fields, "expires") // it is of the former refresh token
	}
	next, opened, err := st.build(revision{
		vendor: stored.vendor, name: name, fields: fields, key: stored.key, generation: kept.generation, time: kept.consented.Time, consented: kept.consented,
		refreshTokenTime: kept.consented.Time,
	})
	if err == nil {
		planned := plannedWrite{replacement: replacement{stored: stored, known: stored.latestState(change.Known), next: next, credential: opened}}
		planned.replacement = planned.withVerified(kept.verified)
		if err = st.commit(ctx, s, change, planned); err != nil {
			err = change.Failed(ctx, planned.answered(), err)
		}
	}
	switch {
	case storage.IsError(err):
		kept.err = err
		st.keptConsents.put(name, kept)
		return &ConsentError{Reason: ReasonUnsaved, Name: name, Err: err}
	case err != nil:
		return st.dropKept(name, err)
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
	case err != nil:
		return st.dropKept(name, err)
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
	return st.dropKept(name, errChanged)
}

// dropKept gives up the result of a consent to a credential that cannot have it any more.
func (st *Store) dropKept(name string, err error) error {
	st.keptConsents.drop(name)
	st.Logger().Warn("a consent failed", "name", name, "error", err)
	return &ConsentError{Reason: ReasonChanged, Name: name, Err: err}
}

// saveTimeout bounds SaveConsents.
const saveTimeout = 10 * time.Second

// SaveConsents stores the results of consents that storage did not accept before.
func (st *Store) SaveConsents(ctx context.Context, s logical.Storage) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	for _, name := range st.keptConsents.names() {
		if ctx.Err() != nil {
			return
		}
		unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
		if err != nil {
			return
		}
		err = st.saveKept(ctx, s, name, nil)
		unlock()
		if st.keptConsents.get(name) != nil {
			st.Logger().Warn("the refresh token of a consent is not in storage yet", "name", name, "error", err)
		}
	}
}
