package credential

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// An Operation is the kind of write that Vault checked a request's policy for.
type Operation int

// The operations.
const (
	Create Operation = iota // the target must not exist
	Update                  // the target must exist
	Patch                   // as Update; maps are merged
)

// A Write is what an operator sends for a credential.
type Write struct {
	Operation Operation

	// Fields are the fields of the request, with the types that storage uses: string, bool,
	// json.Number, []any or map[string]any. nil clears a field. In a patch, a map is merged with
	// the stored one, and a nil value removes its name.
	Fields map[string]any

	// Verify is whether to exchange the credential before it is stored. nil means true, unless
	// the write changes only settings.
	Verify *bool
}

// verifies reports whether the credential is exchanged before it is stored.
func (w Write) verifies() bool { return w.Verify == nil || *w.Verify }

// onlySettings reports whether the write gives only fields that do not affect an exchange, so that
// it needs no verification. It is false if the request asks for one.
func (w Write) onlySettings() bool {
	if len(w.Fields) == 0 || w.Verify != nil && *w.Verify {
		return false
	}
	for field := range w.Fields {
		if !slices.Contains(fieldsWithoutExchange, field) {
			return false
		}
	}
	return true
}

// Write checks, verifies and stores a credential. After it returns nil, no token of the previous
// credential is served, unless only settings changed. Its errors are *VerifyError if the vendor did
// not accept the credential, *ConflictError, *NotFoundError, *provider.Error of kind Invalid, and
// those of broker.BeginWrites.
func (st *Store) Write(ctx context.Context, s logical.Storage, p provider.Provider, name string, w Write) error {
	ctx, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return err
	}
	defer changes.End()
	change := changes.Of(name)
	before, err := st.get(ctx, s, p, name)
	if err != nil {
		return err
	}
	if err := st.checkName(ctx, s, p, name, before != nil, w.Operation); err != nil {
		return err
	}
	next, err := w.apply(p, name, before)
	if err != nil {
		return err
	}
	unlock, err := st.lockKeypair(ctx, next.keypair())
	if err != nil {
		return err
	}
	defer unlock()
	if err := next.resolve(ctx, s); err != nil {
		return err
	}
	pl, err := st.plan(before, next, change.Known, w)
	if err != nil {
		return err
	}
	if before != nil && w.onlySettings() {
		if err := next.put(ctx, s); err != nil {
			return change.Failed(ctx, nil, err)
		}
		change.SettingsCommitted()
		return nil
	}
	if err := st.verify(ctx, change, pl, w); err != nil {
		return change.Failed(ctx, pl.answered(), err)
	}
	if err := st.commit(ctx, s, pl); err != nil {
		return change.Failed(ctx, pl.answered(), err)
	}
	change.Committed()
	return nil
}

// checkName returns an error if the name belongs to a role or to another vendor's credential, or if
// the operation does not match whether the credential exists.
func (st *Store) checkName(ctx context.Context, s logical.Storage, p provider.Provider, name string, exists bool, op Operation) error {
	if op == Patch && !exists {
		return &NotFoundError{Path: apipath.Credential(p.Name(), name), What: "credential"}
	}
	isRole, err := storage.Exists(ctx, s, storage.RoleKey(name))
	if err != nil {
		return err
	}
	if isRole {
		return provider.Errorf(provider.Invalid, "name: %q is taken by %s; choose another name, or delete the role first", name, apipath.Role(name))
	}
	switch owner, err := st.VendorOf(ctx, s, name); {
	case err != nil:
		return err
	case owner != "" && owner != p.Name():
		return provider.Errorf(provider.Invalid, "name: %q is taken by %s; choose another name, or delete that credential first", name, apipath.Credential(owner, name))
	}
	return CheckConflict(op, apipath.Credential(p.Name(), name), exists)
}

// apply returns the credential after the write. before is nil if there is none.
func (w Write) apply(p provider.Provider, name string, before *storedCredential) (*storedCredential, error) {
	old := &Entry{Fields: map[string]any{}}
	if before != nil {
		old = before.Entry
	}
	fields := maps.Clone(old.Fields)
	for field, value := range w.Fields {
		given, isMap := value.(map[string]any)
		if isMap && w.Operation == Patch {
			value = merged(old.Fields[field], given)
		}
		if value == nil {
			delete(fields, field)
		} else {
			fields[field] = value
		}
	}
	entry, err := newEntry(fields, old.WriteTime)
	if err != nil {
		return nil, err
	}
	next := &storedCredential{Entry: entry, vendor: p, name: name, generation: entry.Generation}
	if used := next.keypair(); used != "" && (before == nil || used != before.keypair()) || next.hasNewSecret(old) {
		entry.WriteTime = time.Now().Round(0).UTC()
	}
	return next, nil
}

// merged returns old with given merged into it; nil if the result is empty.
func merged(old any, given map[string]any) any {
	next := map[string]any{}
	if old, isMap := old.(map[string]any); isMap {
		maps.Copy(next, old)
	}
	maps.Copy(next, given)
	maps.DeleteFunc(next, func(_ string, value any) bool { return value == nil })
	if len(next) == 0 {
		return nil
	}
	return next
}

// hasNewSecret reports whether a secret field is set and differs from its old value.
func (c *storedCredential) hasNewSecret(old *Entry) bool {
	for field, schema := range fieldsOf(c.vendor) {
		if value := c.Fields[field]; IsSecret(schema) && value != nil && !reflect.DeepEqual(value, old.Fields[field]) {
			return true
		}
	}
	return false
}

// A plan is a write that has passed all checks.
type plan struct {
	replacement
	after      *storedCredential // the credential with next as its entry
	credential *broker.Credential

	// keepsRotated is whether the verification has rotated a refresh token that is kept in memory
	// until the entry is stored.
	keepsRotated bool
}

// plan checks a write. It changes nothing.
func (st *Store) plan(before, after *storedCredential, known *broker.State, w Write) (*plan, error) {
	credential, err := st.open(after)
	if err != nil {
		return nil, err
	}
	pl := &plan{
		replacement: replacement{next: after.Entry, stored: before, known: before.last(known)},
		after:       after,
		credential:  credential,
	}
	pl.next.SentTo = credential.SentTo
	if before == nil {
		return pl, nil
	}
	sent := st.sentTo(before)
	if err := w.checkDestinations(after, sent); err != nil {
		return nil, err
	}
	pl.isElsewhere = !Destinations(credential.SentTo).within(sent)
	if w.onlySettings() {
		e := pl.next
		e.Generation, e.WriteTime = before.Generation, before.WriteTime
		e.Verified, e.SentTo = before.Verified, before.SentTo
		return pl, nil
	}
	return pl, st.checkGrant(before, credential, w)
}

// verify exchanges the credential unless the write disables that. Its error is of type
// *VerifyError.
func (st *Store) verify(ctx context.Context, change *broker.Change, pl *plan, w Write) error {
	last, isNew := pl.grant(), !pl.sharesRefreshToken()
	if isNew {
		last = st.unstoredGrants.get(pl.after)
	}
	var err error
	if w.verifies() {
		pl.next.Verified, err = change.Verify(ctx, pl.credential, last)
	} else {
		pl.next.Verified = broker.Unverified(pl.credential, last)
	}
	if grant := pl.next.Verified.Grant; isNew && !grant.Derived && grant.RefreshToken != last.RefreshToken {
		pl.keepsRotated = true
		st.unstoredGrants.keep(pl.after, grant)
	}
	if err != nil {
		nothing := "nothing was stored at " + pl.after.path()
		return &VerifyError{Err: err, Outcome: nothing, InOutage: nothing + "; verify=false stores the credential unchecked"}
	}
	return nil
}

// commit stores the credential. It first binds the key pair that the credential uses to its hosts.
func (st *Store) commit(ctx context.Context, s logical.Storage, pl *plan) error {
	if err := st.bindKeypair(ctx, s, pl.after); err != nil {
		return err
	}
	if err := pl.after.put(ctx, s); err != nil {
		if pl.keepsRotated {
			err = fmt.Errorf("%w; the vendor has rotated the given refresh token and the new one is only in memory; send the same write again within an hour", err)
		}
		return err
	}
	if !pl.sharesRefreshToken() { // otherwise the unstored grant belongs to another write
		st.unstoredGrants.drop(pl.after.storageKey())
	}
	// The new generation makes the previous state void. Deleting it is only cleanup, and must not
	// fail a completed write.
	if err := broker.DeleteState(ctx, s, pl.after.name); err != nil {
		st.Logger().Warn("cannot delete the state of the previous credential", "name", pl.after.name, "error", err)
	}
	return nil
}
