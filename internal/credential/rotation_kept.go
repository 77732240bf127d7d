package credential

import (
	"context"
	"maps"
	"slices"
	"sync"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/schedule"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// unsavedRotations has the secrets that vendors have issued and that storage has not accepted yet, by the storage
// key of their entry. The next run of the rotation goes on with them. (Guarantee 3.) It is safe for concurrent use.
type unsavedRotations struct {
	mu   sync.Mutex
	kept map[string]unsavedRotation
}

type unsavedRotation struct {
	rotation *Rotation
	err      error
	save     func(context.Context) error
}

// keep keeps the state of a rotation that could not be stored because of err, or drops what was kept if err is nil. save
// stores it.
func (u *unsavedRotations) keep(key string, r *Rotation, err error, save func(context.Context) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil:
		delete(u.kept, key)
	case r == nil || r.Pending == nil || r.Pending.Fields == nil: // nothing is lost with it
	default:
		if u.kept == nil {
			u.kept = map[string]unsavedRotation{}
		}
		u.kept[key] = unsavedRotation{r, err, save}
	}
}

// drop drops what was kept.
func (u *unsavedRotations) drop(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.kept, key)
}

// reason returns why a state of a rotation is only in memory; nil if none is.
func (u *unsavedRotations) reason(key string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.kept[key].err
}

// AddUnsavedRotation adds to a status why a new secret of the credential is not in storage.
func (st *Store) AddUnsavedRotation(name string, status *broker.Status) {
	if err := st.unsavedRotations.reason(storage.CredentialKey(status.Vendor, name)); err != nil {
		status.SetStorageError(err)
	}
}

// saveAll stores what is only in memory, before the engine stops.
func (u *unsavedRotations) saveAll(ctx context.Context) {
	u.mu.Lock()
	all := slices.Collect(maps.Values(u.kept))
	u.mu.Unlock()
	for _, kept := range all {
		_ = kept.save(ctx) // nothing else is possible if this fails
	}
}

// get returns the state of a rotation that follows the stored one: what was kept, if the stored one is still the one
// before it. err is why it is not stored. What follows another state is left to the write of the entry.
func (u *unsavedRotations) get(key string, stored *Rotation) (r *Rotation, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	kept, isKept := u.kept[key]
	if !isKept || stored == nil || stored.Pending == nil || stored.Pending.Fields != nil || stored.Pending.Name != kept.rotation.Pending.Name {
		return stored, nil
	}
	next, pending := *kept.rotation, *kept.rotation.Pending
	pending.IsOvertaken, next.Pending = stored.Pending.IsOvertaken, &pending
	return &next, kept.err
}

// openRotated opens the credential with the secrets that the vendor may accept in place of the present ones: a
// pending one, and the former ones. It adds them to what is tried if the vendor refuses the present ones.
func (st *Store) openRotated(c *storedCredential, opened *broker.Credential) {
	rotation, _ := st.unsavedRotations.get(c.storageKey(), c.Rotation)
	if rotation == nil {
		return
	}
	opened.Version.Secrets = rotation.Version
	try := func(version string, fields map[string]any) {
		if fields["private_key_source"] != nil && c.keypairName() == "" {
			return // the former key is that of a key pair, which the credential does not use any more
		}
		other, err := st.openUnchecked(c.withFields(fields))
		if err == nil && Destinations(other.SentTo).within(opened.SentTo) {
			opened.Formers = append(opened.Formers, broker.Former{Vendor: other.Vendor, WithFields: other.WithFields, Secrets: version})
		}
		if err == nil {
			opened.Secrets = append(opened.Secrets, other.Secrets...)
		}
	}
	if pending := rotation.Pending; pending != nil {
		opened.Secrets = append(opened.Secrets, pending.Secrets()...)
		if next := pending.expected(opened.Vendor); next != nil {
			fields, _ := next.replace(c.Fields, nil)
			try(pending.Name, fields)
		}
	}
	for _, lost := range rotation.Lost {
		opened.Secrets = append(opened.Secrets, lost.Secrets()...)
	}
	for _, former := range rotation.Formers {
		try(former.Version, mergedFields(c.Fields, former.Fields))
	}
	opened.Secrets = slices.Compact(slices.Sorted(slices.Values(opened.Secrets)))
}

// expected returns the secret with the fields that it has, or will have if the vendor accepts what the engine chose; nil
// if only the vendor knows them.
func (p *PendingSecret) expected(of provider.Credential) *PendingSecret {
	if p.Fields != nil {
		return p
	}
	rotation, err := provider.RotationOf(of)
	if err != nil {
		return nil
	}
	next := *p
	if next.Fields, err = rotation.Expected(p.NewSecret); err != nil || next.Fields == nil {
		return nil
	}
	return &next
}

// mergedFields returns fields with others in their place.
func mergedFields(fields, others map[string]any) map[string]any {
	merged := map[string]any{}
	for name, value := range fields {
		merged[name] = value
	}
	for name, value := range others {
		if merged[name] = value; value == nil {
			delete(merged, name)
		}
	}
	return merged
}

// rotationFields are the fields with the plan of a rotation.
var rotationFields = append(slices.Clone(schedule.Fields), graceField)
