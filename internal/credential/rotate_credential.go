package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Rotate replaces the secret of a credential at its vendor, now. Its errors are those of Write; a *VerifyError if the
// vendor has not issued or not accepted a new one.
func (st *Store) Rotate(ctx context.Context, s logical.Storage, p provider.Provider, name string, request RotationRequest) (RotationResult, error) {
	var result RotationResult
	ctx = pacing.With(ctx, pacing.NewAdmission(name, pacing.Operator))
	err := st.rotate(ctx, s, p.Name(), name, func(ctx context.Context, run *rotationRun) error {
		if err := run.begin(ctx, &request); err != nil {
			return err
		}
		done, err := run.run(ctx, &request)
		st.reportRun(apipath.Credential(p.Name(), name), p.Name(), name, request.By, run, done, err)
		if errors.Is(err, errNotYet) {
			result.IsPending, err = true, nil
		}
		result.FormerUntil = run.state.formerUntil()
		return err
	})
	return result, err
}

// rotateDueCredential takes the steps of a credential's rotation that are due.
func (st *Store) rotateDueCredential(ctx context.Context, s logical.Storage, vendor, name string) error {
	ctx = pacing.With(ctx, pacing.NewAdmission(name, pacing.Background))
	return st.rotate(ctx, s, vendor, name, func(ctx context.Context, run *rotationRun) error {
		return st.runDue(ctx, run, apipath.Credential(vendor, name), vendor, name)
	})
}

// runDue takes the steps of a rotation that are due. Its error is of type *storage.Error.
func (st *Store) runDue(ctx context.Context, run *rotationRun, path, vendor, name string) error {
	now := time.Now()
	if now.Before(run.state.nextAttempt(now)) { // another request has tried meanwhile
		return nil
	}
	by := ""
	if run.state.Pending != nil {
		by = run.state.Pending.By
	}
	done, err := false, run.begin(ctx, nil)
	if err != nil {
		err = run.fail(ctx, err)
	} else {
		done, err = run.run(ctx, nil)
	}
	if isUnsent(err) { // the next sweep tries again
		return nil
	}
	st.reportRun(path, vendor, name, by, run, done, err)
	if storage.IsError(err) {
		return err
	}
	return nil
}

// rotate calls f with a run of the rotation of a credential, which nothing else changes meanwhile.
func (st *Store) rotate(ctx context.Context, s logical.Storage, vendor, name string, f func(context.Context, *rotationRun) error) error {
	ctx, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return err
	}
	defer changes.End()
	run, err := st.rotationRun(ctx, s, vendor, name, changes.Of(name))
	if err != nil {
		return err
	}
	defer run.entry.(*rotatingCredential).end()
	return f(ctx, run)
}

// rotationRun returns a run of the rotation of a credential, within a change of it.
func (st *Store) rotationRun(ctx context.Context, s logical.Storage, vendor, name string, change *broker.Change) (*rotationRun, error) {
	p, err := st.vendorFor(ctx, s, vendor)
	if err != nil {
		return nil, err
	}
	stored, err := st.get(ctx, s, p, name)
	if err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, provider.Errorf(provider.Invalid, "no credential found at %s; create it first", apipath.Credential(vendor, name))
	}
	inStorage := stored.Entry
	if kept, err := st.unsavedRotations.get(stored.storageKey(), stored.Rotation); err != nil {
		stored = stored.withEntry(func(e *Entry) { e.Rotation = kept })
	} else {
		st.unsavedRotations.drop(stored.storageKey()) // another node, or an operator, has changed the stored one
	}
	opened, err := st.open(stored)
	if err != nil {
		return nil, err
	}
	plan, err := stored.rotationPlan()
	if err != nil {
		return nil, err
	}
	entry := &rotatingCredential{store: st, storage: s, stored: stored, inStorage: inStorage, opened: opened, change: change, known: change.Known}
	run := &rotationRun{entry: entry, plan: plan, changed: stored.WriteTime}
	if stored.Rotation != nil {
		run.state = *stored.Rotation
	}
	return run, nil
}

// reportRun logs and reports a rotation that has ended.
func (st *Store) reportRun(path, vendor, name, by string, run *rotationRun, done bool, err error) {
	logger := st.Logger().With("path", path)
	switch {
	case done:
		logger.Info("the secret is rotated", "by", shownBy(by))
		st.reportRotated(RotationReport{Path: path, Vendor: vendor, Name: name, By: by})
	case errors.Is(err, errNotYet):
		logger.Info("the vendor does not accept a new secret yet; it is tried again", "since", broker.FormatTime(run.state.Pending.CreateTime))
		return
	}
	if err != nil {
		logger.Warn("the rotation has failed", "error", err, "failures", run.state.Failures, "next_attempt", broker.FormatTime(run.state.NextAttempt))
		st.reportRotated(RotationReport{Path: path, Vendor: vendor, Name: name, Err: err, Failures: max(1, run.state.Failures), By: by})
	}
}

func (st *Store) reportRotated(r RotationReport) {
	if st.options.Rotated != nil {
		st.options.Rotated(r)
	}
}

// shownBy returns who asked for a rotation, for people.
func shownBy(by string) string {
	if by == "" {
		return "schedule"
	}
	return by
}

// A rotatingCredential is a credential whose secret is replaced. It implements rotatingEntry.
type rotatingCredential struct {
	store   *Store
	storage logical.Storage
	stored  *storedCredential
	opened  *broker.Credential
	change  *broker.Change
	known   *broker.State // the state of stored; nil if there is none

	// inStorage is what storage has.
	inStorage *Entry

	// isWritten is whether the entry has been written, and isVoid whether older tokens are void.
	isWritten, isVoid bool
}

// end makes readers load the credential again if it was written. Until then they get the cached token, as a rotation
// asks the vendor several times. While storage fails, they get it still (reloadUncertain).
func (c *rotatingCredential) end() {
	_, isUncertain := c.store.uncertain.Load(c.stored.name)
	switch {
	case c.isVoid:
		c.change.Committed()
	case c.isWritten && !isUncertain:
		c.change.SettingsCommitted()
	}
}

func (c *rotatingCredential) api(ctx context.Context) (provider.Rotation, error) {
	if c.stored.client != nil && c.stored.client.Client != nil {
		return nil, provider.Errorf(provider.Invalid, "client: the secret is that of %[1]s; rotate it at %[1]s/rotate", c.stored.client.path())
	}
	if err := c.checkKeypair(ctx); err != nil {
		return nil, err
	}
	rotation, err := provider.RotationOf(c.opened.Vendor)
	if err == nil && cannotVerify(c.opened) && !rotation.Rules().CanProve {
		return nil, provider.Errorf(provider.Invalid, "the engine could not tell whether the vendor accepts a new secret, as nothing can be exchanged with it yet; rotate it after that")
	}
	return rotation, err
}

// checkKeypair returns an error of kind Invalid if another credential has the same key pair.
func (c *rotatingCredential) checkKeypair(ctx context.Context) error {
	keypair := c.stored.keypairName()
	if keypair == "" {
		return nil
	}
	users, err := c.store.usersOf(ctx, c.storage, keypair)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(users, func(u *storedCredential) bool { return u.name == c.stored.name })
	if len(others) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "keypair: is also that of %.300s; a rotation replaces the key only for one credential, and removes the former one at the vendor: give each credential a key pair of its own", others)
}

func (c *rotatingCredential) hasWorked() bool { return true } // it was proven before it was stored

func (c *rotatingCredential) fields() map[string]any { return c.stored.Fields }

func (c *rotatingCredential) save(ctx context.Context, r *Rotation) error {
	return c.put(ctx, c.stored.withEntry(func(e *Entry) { e.Rotation = r }))
}

// put stores another entry of the credential. What cannot be stored is kept in memory. The error is broker.ErrBusy if
// another node has written the entry meanwhile.
func (c *rotatingCredential) put(ctx context.Context, next *storedCredential) error {
	current, err := storage.Get[Entry](ctx, c.storage, next.storageKey(), repairCredential)
	switch {
	case err == nil && (current == nil || !current.isSame(c.inStorage)):
		return broker.ErrBusy
	case err == nil || !storage.IsError(err): // a damaged one is repaired
		err = next.put(ctx, c.storage)
	}
	c.store.unsavedRotations.keep(next.storageKey(), next.Rotation, err, func(ctx context.Context) error { return c.put(ctx, next) })
	if err != nil {
		c.store.uncertain.Store(next.name, next)
		return err
	}
	c.stored, c.inStorage, c.isWritten = next, next.Entry, true
	return nil
}

// isSame reports whether nothing that a rotation depends on differs.
func (e *Entry) isSame(other *Entry) bool {
	return e.Generation == other.Generation && isSameJSON(e.Fields, other.Fields) && isSameJSON(e.Rotation, other.Rotation)
}

func isSameJSON(a, b any) bool {
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// revise returns the credential with other fields.
func (c *rotatingCredential) revise(fields map[string]any, rotation *Rotation) (*storedCredential, *broker.Credential, error) {
	key := c.stored.key
	if keypairOf(c.stored.name, fields) == "" {
		key = signingKey{}
	}
	next, opened, err := c.store.build(revision{
		vendor: c.stored.vendor, name: c.stored.name, fields: fields, key: key, client: c.stored.client, generation: c.stored.Generation,
		time: wallTime(), consented: c.stored.Consented, refreshTokenTime: c.stored.RefreshTokenTime, rotation: rotation,
	})
	if err != nil {
		return nil, nil, err
	}
	return next, opened, checkStays(opened.SentTo, c.stored.SentTo)
}

// checkStays returns an error if a rotation would send secrets to a destination that the writer of the secret did not
// choose. (Guarantee 13.)
func checkStays(to, stored Destinations) error {
	if added := to.beyond(stored); len(added) > 0 {
		return provider.Errorf(provider.Invalid, "the rotation would send the secrets to a new destination: %.300s; change the definition of the vendor", added)
	}
	return nil
}

func (c *rotatingCredential) prove(ctx context.Context, fields map[string]any) error {
	next, credential, err := c.revise(fields, nil)
	if err != nil {
		return err
	}
	if rotation, ownErr := provider.RotationOf(credential.Vendor); ownErr == nil && (rotation.Rules().ProvesItself || cannotVerify(credential)) {
		return rotation.Prove(ctx)
	}
	r := replacement{stored: c.stored, known: c.stored.latestState(c.known), next: next, credential: credential}
	credential.Formers = nil // which would accept the present secret in place of the new one
	state, err := c.change.Verify(ctx, credential, r.grant())
	if answered := r.withVerified(state).answered(); answered != nil {
		if saveErr := c.change.Save(ctx, answered); saveErr != nil {
			return saveErr
		}
		c.known = answered
	}
	return err
}

func (c *rotatingCredential) commit(ctx context.Context, fields map[string]any, rotation *Rotation, isVoid bool) error {
	next, opened, err := c.revise(maps.Clone(fields), rotation)
	if err != nil {
		return err
	}
	c.opened = opened
	next = next.withEntry(func(e *Entry) { e.Verified = c.stored.Verified })
	if isVoid {
		generation, err := newGeneration()
		if err != nil {
			return err
		}
		known := c.stored.latestState(c.known)
		next = next.withEntry(func(e *Entry) { e.Generation, e.Verified = generation, known.AfterLeak(generation) })
	}
	unlock, err := c.store.lockDefinition(ctx, c.storage, next.vendor)
	if err != nil {
		return err
	}
	defer unlock()
	err = c.put(ctx, next)
	c.isVoid = c.isVoid || isVoid && err == nil
	return err
}
