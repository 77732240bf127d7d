package credential

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// A keptConsent is a credential with the refresh token of a consent.
type keptConsent struct {
	planned plannedWrite
	consent Consent
}

// keptConsents has the results of consents that storage did not accept, by the names of the credentials
// (guarantee 3). The person cannot consent again at every vendor without harm, so they are stored as soon
// as storage accepts them. It is safe for concurrent use.
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

// saveConsent stores the result of a consent, or keeps it in memory.
func (st *Store) saveConsent(ctx context.Context, s logical.Storage, change *broker.Change, name string, kept *keptConsent) error {
	if err := st.commit(ctx, s, change, kept.planned); err != nil {
		err = change.Failed(ctx, kept.planned.answered(), err)
		if !storage.IsError(err) {
			return &ConsentError{Reason: ReasonChanged, Name: name, Err: err}
		}
		st.keptConsents.put(name, kept)
		return &ConsentError{Reason: ReasonUnsaved, Name: name, Err: err}
	}
	st.keptConsents.drop(name)
	if err := putConsent(ctx, s, name, &kept.consent); err != nil {
		st.Logger().Warn("a consent is complete, but who consented cannot be stored", "name", name, "error", err)
	}
	return nil
}

// saveKept stores the result of a consent that storage did not accept before. Without one, the consent c
// was used up already. The caller holds the lock of the consent.
func (st *Store) saveKept(ctx context.Context, s logical.Storage, name string, c *Consent) error {
	kept := st.keptConsents.get(name)
	if kept == nil || c != nil && string(kept.consent.Digest) != string(c.Digest) {
		return &ConsentError{Reason: ReasonUsed, Name: name}
	}
	ctx, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return &ConsentError{Reason: ReasonUnsaved, Name: name, Err: err}
	}
	defer changes.End()
	stored, _, err := st.consentOf(ctx, s, name)
	switch {
	case storage.IsError(err):
		return &ConsentError{Reason: ReasonUnsaved, Name: name, Err: err}
	case err != nil || stored.Generation != kept.planned.stored.Generation:
		st.keptConsents.drop(name)
		return &ConsentError{Reason: ReasonChanged, Name: name, Err: err}
	}
	return st.saveConsent(ctx, s, changes.Of(name), name, kept)
}

// SaveConsents stores the results of consents that storage did not accept before.
func (st *Store) SaveConsents(ctx context.Context, s logical.Storage) {
	for _, name := range st.keptConsents.names() {
		unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
		if err != nil {
			return
		}
		err = st.saveKept(ctx, s, name, nil)
		unlock()
		var failure *ConsentError
		if errors.As(err, &failure) && failure.Reason == ReasonUnsaved {
			st.Logger().Warn("the refresh token of a consent is not in storage yet", "name", name, "error", err)
		}
	}
}
