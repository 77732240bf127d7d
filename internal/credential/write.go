package credential

import (
	"context"
	"fmt"
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

// A WriteRequest is what an operator sends for a credential.
type WriteRequest struct {
	Operation Operation

	// Fields are the fields of the request, with the types that storage uses: string, bool,
	// json.Number, []any or map[string]any. nil clears a field. In a patch, a map is merged with
	// the stored one, and a nil value removes its name.
	Fields map[string]any

	// Verify is whether to exchange the credential before it is stored. nil means true, unless
	// the write changes nothing that an exchange depends on.
	Verify *bool
}

// verifies reports whether the credential is exchanged before it is stored.
func (w WriteRequest) verifies() bool { return w.Verify == nil || *w.Verify }

// needsNoExchange reports whether the write gives only fields that do not affect an exchange, so
// that it needs no verification. It is false if the request asks for one.
func (w WriteRequest) needsNoExchange() bool {
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
// credential is served, unless the write needed no exchange. Its errors are *VerifyError if the
// vendor did not accept the credential, *ConflictError, *NotFoundError, *provider.Error of kind
// Invalid, and those of broker.BeginWrites.
func (st *Store) Write(ctx context.Context, s logical.Storage, p provider.Provider, name string, w WriteRequest) error {
	if st.options.BuiltIn(p.Name()) == nil { // the caller may have read its definition a while ago
		current, err := st.vendorFor(ctx, s, p.Name())
		if err != nil {
			return err
		}
		p = current
	}
	ctx, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return err
	}
	defer changes.End()
	change := changes.Of(name)
	stored, err := st.get(ctx, s, p, name)
	if err != nil {
		return err
	}
	if err := st.checkName(ctx, s, p, name, stored != nil, w.Operation); err != nil {
		return err
	}
	fields := w.apply(stored)
	r := revision{vendor: p, name: name, fields: fields, time: wallTime()}
	given, _ := fields[clientField].(string)
	if r.client, err = readClientUse(ctx, s, given); err != nil {
		return err
	}
	keypair := r.keypairName()
	unlock, err := st.lockKeypair(ctx, keypair)
	if err != nil {
		return err
	}
	defer unlock()
	if r.key, _, err = readKey(ctx, s, keypair); err != nil {
		return err
	}
	if r.generation, err = newGeneration(); err != nil {
		return err
	}
	planned, err := st.planWrite(w, stored, st.openedStored(stored, change.Credential), change.Known, r)
	if err != nil {
		return err
	}
	// Before a verification, which may rotate the given refresh token.
	if err := st.inUse.add(ctx, s, p.Name()); err != nil {
		return err
	}
	planned, err = st.verify(ctx, change, planned, w)
	if err == nil {
		err = st.commit(ctx, s, change, planned)
	}
	if err != nil {
		return change.Failed(ctx, planned.answered(), err)
	}
	return nil
}

// wallTime returns the time, as storage has it.
func wallTime() time.Time { return time.Now().Round(0).UTC() }

// openedStored returns a stored credential ready to be exchanged: the one that a change has loaded,
// unless another node has written the credential since. It returns nil if there is none, or if it
// cannot be opened. A change that could not open it has loaded none.
func (st *Store) openedStored(c *storedCredential, loaded *broker.Credential) *broker.Credential {
	switch {
	case c == nil || loaded == nil:
		return nil
	case loaded.Generation == c.Generation:
		return loaded
	}
	credential, err := st.open(c)
	if err != nil {
		return nil
	}
	return credential
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

// verify exchanges the credential, unless the write needs no exchange or disables it. It returns the
// write with the result, also with an error, which is of type *VerifyError.
func (st *Store) verify(ctx context.Context, change *broker.Change, planned plannedWrite, w WriteRequest) (plannedWrite, error) {
	if planned.needsNoExchange {
		return planned, nil
	}
	last, isNew := planned.grant(), !planned.sharesRefreshToken()
	if isNew {
		last = st.unstoredGrants.get(planned.next)
	}
	var err error
	state := broker.Unverified(planned.credential, last)
	if w.verifies() && !cannotVerify(planned.credential) {
		credential := *planned.credential
		if planned.replacesSecret && planned.next.client == nil {
			credential.Formers = nil
		}
		state, err = change.Verify(ctx, &credential, last)
	}
	planned.replacement = planned.withVerified(state)
	if isNew && !state.Grant.Derived && state.Grant.RefreshToken != last.RefreshToken {
		planned.hasRotated = true
		st.unstoredGrants.put(planned.next, state.Grant)
	}
	if err != nil {
		nothing := "nothing was stored at " + planned.next.path()
		return planned, &VerifyError{Err: err, Outcome: nothing, InOutage: nothing + "; verify=false stores the credential unchecked"}
	}
	return planned, nil
}

// commit stores a verified write and reports it to the change.
func (st *Store) commit(ctx context.Context, s logical.Storage, change *broker.Change, planned plannedWrite) error {
	switch err := st.put(ctx, s, planned); {
	case err != nil && planned.hasRotated:
		return fmt.Errorf("%w; the vendor has rotated the given refresh token and the new one is only in memory; send the same write again within an hour", err)
	case err != nil:
		return err
	case planned.needsNoExchange:
		change.SettingsCommitted()
		return nil
	}
	next := planned.next
	if !planned.sharesRefreshToken() { // otherwise the unstored grant belongs to another write
		st.unstoredGrants.drop(next.storageKey())
	}
	// The new generation makes the previous state void. Deleting it is only cleanup, and must not
	// fail a completed write.
	if err := broker.DeleteState(ctx, s, next.name); err != nil {
		st.Logger().Warn("cannot delete the state of the previous credential", "name", next.name, "error", err)
	}
	change.Committed()
	if next.Rotation == nil || next.Rotation.Pending == nil {
		st.unsavedRotations.drop(next.storageKey())
	}
	if stored := planned.stored; stored != nil {
		st.logForgotten(next.path(), FieldSchemas(next.vendor), stored.Rotation, next.Rotation)
	}
	return nil
}

// put stores a write, unless the definition of its vendor or its client has changed meanwhile. It first
// binds the key pair that the credential uses.
func (st *Store) put(ctx context.Context, s logical.Storage, planned plannedWrite) error {
	unlockClient, err := st.lockClient(ctx, s, planned.next.client)
	if err != nil {
		return err
	}
	defer unlockClient()
	unlock, err := st.lockDefinition(ctx, s, planned.next.vendor)
	if err != nil {
		return err
	}
	defer unlock()
	if !planned.needsNoExchange {
		if err := st.bindKeypair(ctx, s, planned.next, planned.credential); err != nil {
			return err
		}
	}
	return planned.next.put(ctx, s)
}
