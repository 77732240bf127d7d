package credential

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// A Deletion is the deletion of a credential in progress. Nothing else changes the credential until
// End.
type Deletion struct {
	store   *Store
	storage logical.Storage
	ctx     context.Context
	changes *broker.Changes
	vendor  string
	name    string
	keypair string
	unlock  func() // the key pair

	rotation *Rotation // of the credential; nil if there was none

	unlockConsent func()
}

// BeginDelete begins the deletion of a credential, including one that cannot be decoded. The caller
// must call End. Its errors are those of broker.BeginDelete.
func (st *Store) BeginDelete(ctx context.Context, s logical.Storage, vendor, name string) (*Deletion, error) {
	unlockConsent, err := st.broker.Lock(ctx, storage.ConsentKey(name))
	if err != nil {
		return nil, err
	}
	ctx, changes, err := st.broker.BeginDelete(ctx, s, name)
	if err != nil {
		unlockConsent()
		return nil, err
	}
	d := &Deletion{store: st, storage: s, ctx: ctx, changes: changes, vendor: vendor, name: name, unlock: func() {}, unlockConsent: unlockConsent}
	own, err := storage.Get[Entry](ctx, s, storage.CredentialKey(vendor, name), "")
	switch {
	case storage.IsError(err):
		d.End()
		return nil, err
	case err == nil && own != nil:
		client, err := readClientUse(ctx, s, own.text(clientField))
		if storage.IsError(err) {
			d.End()
			return nil, err
		}
		d.rotation = own.Rotation
		d.keypair = (&storedCredential{Entry: own, name: name, client: client}).keypairName()
	}
	if d.unlock, err = st.lockKeypair(ctx, d.keypair); err != nil {
		d.unlock = func() {}
		d.End()
		return nil, err
	}
	return d, nil
}

// End releases the locks of the deletion.
func (d *Deletion) End() {
	d.unlock()
	d.changes.End()
	d.unlockConsent()
}

// Context returns the context to use for work within the deletion.
func (d *Deletion) Context() context.Context { return d.ctx }

// RemoveSecrets removes the secrets at the vendor that a rotation has created or replaced, but for the present one. It
// describes those that it could not remove, and that nobody removes once the credential is deleted.
func (d *Deletion) RemoveSecrets() []string {
	if d.rotation == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, removalTimeout)
	defer cancel()
	if run, err := d.store.rotationRun(ctx, d.storage, d.vendor, d.name, d.changes.Of(d.name)); err == nil {
		if err := run.removeAll(ctx); err != nil {
			d.store.Logger().Warn("a deletion leaves secrets at the vendor", "path", apipath.Credential(d.vendor, d.name), "error", err)
		}
		d.rotation = &run.state
	}
	p, err := d.store.Vendor(d.ctx, d.storage, d.vendor)
	if err != nil || p == nil {
		return d.rotation.leftovers(nil)
	}
	return d.rotation.leftovers(FieldSchemas(p))
}

// removalTimeout bounds how long a deletion waits for a vendor that removes secrets.
const removalTimeout = time.Minute

// Delete deletes the credential and its state, and revokes its tokens where the vendor supports
// that. It does nothing if the name belongs to another vendor. Its error is of type
// *storage.Error.
func (d *Deletion) Delete() error {
	ctx, s, st, change := d.ctx, d.storage, d.store, d.changes.Of(d.name)
	switch owner, err := st.VendorOf(ctx, s, d.name); {
	case err != nil:
		return err
	case owner != "" && owner != d.vendor:
		return nil
	}
	// Revoking leased tokens needs the credential, so it comes first.
	if err := st.broker.RevokeLeases(ctx, s, d.name); err != nil {
		return change.Failed(ctx, nil, err)
	}
	if err := storage.Delete(ctx, s, storage.ConsentKey(d.name)); err != nil {
		return change.Failed(ctx, nil, err)
	}
	if err := storage.Delete(ctx, s, storage.CredentialKey(d.vendor, d.name)); err != nil {
		return change.Failed(ctx, nil, err)
	}
	st.keptConsents.drop(d.name) // not before, as the credential would have lost its refresh token
	st.unstoredGrants.drop(storage.CredentialKey(d.vendor, d.name))
	st.unsavedRotations.drop(storage.CredentialKey(d.vendor, d.name))
	if d.keypair != "" {
		st.forgetActivated(ctx, s, d.keypair, d.name)
	}
	err := errors.Join(broker.DeleteState(ctx, s, d.name), st.DropVariants(ctx, s, d.name, true))
	st.broker.RevokeAll(ctx, change.Credential, change.Known)
	if err != nil {
		return change.Failed(ctx, nil, err)
	}
	change.Deleted()
	return nil
}

// IsRepaired reports whether the vendor has not rejected the credential since a time, or not again after it was
// asked, or a person is about to consent to it. Its error is of type *storage.Error.
func (d *Deletion) IsRepaired(since, asked time.Time) (bool, error) {
	known := d.changes.Of(d.name).Known
	rejected := known.RejectedSince()
	if rejected.IsZero() || rejected.After(since) || known.Failure.Time.Before(asked.Round(0).UTC()) || d.store.keptConsents.get(d.name) != nil {
		return true, nil
	}
	attempt, err := d.store.readAttempt(d.ctx, d.storage, d.name)
	if storage.IsError(err) {
		return false, err
	}
	return attempt != nil && attempt.State == ConsentPending, nil
}
