package credential

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Activating a pair changes the key pair and every credential that uses it: their private key,
// their generation and, where the vendor gives one, their client ID. Half of that works with no
// vendor, and a server can be killed at any point. So one write is the switch: the key pair's
// entry, which has the pair as active, and with it each credential as it is from then on. Loading
// a credential loads its key pair too (resolve), and takes what that has in place of the
// credential's own entry, as long as the entry is still the one that was activated.
//
// Killed before that write, or with storage that refuses it, nothing has happened. Killed after
// it, all has. The writes of each credential's own entry that follow (settle) are tidiness.
//
// A refresh token that the vendor rotates while it is asked is part of the same write, and is
// stored before the next credential is exchanged, so that neither another's refusal nor a kill in
// between loses it.

// activated is a credential as an activation has made it.
type activated struct {
	// Of is the generation of the entry that Entry replaces. Under any other it is void: the
	// credential has been written since, or deleted.
	Of    string `json:"of"`
	Entry *Entry `json:"entry"`
}

// An Activation is what an operator sends to activate the pending pair of a key pair: fields of
// the credentials that use it. nil leaves a field as it is, "" clears it.
type Activation struct{ ClientID, KeyID *string }

// fields returns the given ones by name.
func (a Activation) fields() map[string]string {
	given := map[string]string{}
	for field, value := range map[string]*string{"client_id": a.ClientID, "key_id": a.KeyID} {
		if value != nil {
			given[field] = *value
		}
	}
	return given
}

// check refuses a field that would go to no credential, and one client ID for credentials that
// have different ones.
func (a Activation) check(us users) error {
	for _, field := range sortedKeys(a.fields()) {
		if len(us) == 0 {
			return provider.Errorf(provider.Invalid, "%s: is for the credentials that use the key pair, and none does; leave it out, and give it to those that you write", field)
		}
	}
	if a.ClientID == nil {
		return nil
	}
	for _, u := range us {
		if !reflect.DeepEqual(u.Fields["client_id"], us[0].Fields["client_id"]) {
			return provider.Errorf(provider.Invalid, "client_id: cannot be that of both %s and %s, which have different ones now; give each a key pair of its own", us[0].path(), u.path())
		}
	}
	return nil
}

// Activate puts the pending pair in the active one's place, if the vendor accepts it for every
// credential that uses the key pair. Otherwise nothing changes. Its errors are those of Write.
func (st *Store) Activate(ctx context.Context, s logical.Storage, name string, a Activation) error {
	users, err := st.usersOf(ctx, s, name)
	if err != nil {
		return err
	}
	names := users.names()
	ctx, changes, err := st.broker.BeginWrites(ctx, s, names...)
	if err != nil {
		return err
	}
	defer changes.End()
	unlock, err := st.lockKeypair(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	k, err := getKeypair(ctx, s, name)
	switch {
	case err != nil:
		return err
	case k == nil:
		return provider.Errorf(provider.Invalid, "%q is not a key pair: make one by a write to %s", name, KeypairPath(name))
	case k.Pending == nil:
		return provider.Errorf(provider.Invalid, "%s has no pending pair, and the active one is %s of %s: make one by a write to %s",
			KeypairPath(name), k.Active.KeyID, broker.FormatTime(k.Active.CreatedTime), KeypairPath(name))
	}
	if users, err = st.usersOf(ctx, s, name); err != nil {
		return err
	}
	if !slices.Equal(users.names(), names) { // they have changed before the lock
		return broker.ErrBusy
	}
	if err := users.resolve(ctx, s); err != nil {
		return err
	}
	if err := a.check(users); err != nil {
		return err
	}
	run := &activation{store: st, storage: s, name: name, changes: changes, users: users, given: a.fields(),
		next: &Keypair{Active: k.Pending, Allowed: k.Allowed, Activated: map[string]activated{}}}
	if err := run.switchKeys(ctx); err != nil {
		return errors.Join(append([]error{err}, run.failed(ctx, err)...)...)
	}
	for _, u := range users {
		changes.Of(u.name).Stored()
	}
	st.Logger().Info("key pair activated", "keypair", name, "key_id", k.Pending.KeyID)
	return nil
}

// An activation is one that is under way.
type activation struct {
	store   *Store
	storage logical.Storage
	name    string
	changes *broker.Changes
	users   users
	given   map[string]string
	next    *Keypair // what is to be stored

	// answered is, by name, what the vendors answered for the credentials as they are stored, of
	// those that have been exchanged; nil if there was nothing to keep.
	answered map[string]*broker.State
}

// switchKeys exchanges each credential with the pending pair, and makes the switch.
func (a *activation) switchKeys(ctx context.Context) error {
	a.answered = map[string]*broker.State{}
	for i, u := range a.users {
		answered, err := a.verify(ctx, u)
		a.answered[u.name] = answered
		if err == nil && answered != nil && i < len(a.users)-1 { // what is of the last is in the switch
			err = a.changes.Of(u.name).Save(ctx, answered)
		}
		if err != nil {
			return err
		}
	}
	if err := putKeypair(ctx, a.storage, a.name, a.next); err != nil {
		return err
	}
	if err := a.settle(ctx); err != nil {
		a.store.Logger().Warn("what an activation has changed is left in the key pair's entry, which is as good", "keypair", a.name, "error", err)
	}
	return nil
}

// failed keeps what the vendors answered for the credentials, which stay as they are. It returns
// the errors of that.
func (a *activation) failed(ctx context.Context, err error) []error {
	var failures []error
	for name, answered := range a.answered {
		if joined := a.changes.Of(name).Failed(ctx, answered, err); !errors.Is(err, joined) {
			failures = append(failures, joined)
		}
	}
	return failures
}

// verify exchanges a credential with the pending pair. It returns what the vendor answered for the
// credential as it is stored; nil if there is nothing to keep.
func (a *activation) verify(ctx context.Context, u *stored) (*broker.State, error) {
	fields := maps.Clone(u.Fields)
	for field, value := range a.given {
		// Of several credentials, those without a key_id are at a vendor that uses the thumbprint.
		if field == "key_id" && len(a.users) > 1 && fields[field] == nil {
			continue
		}
		delete(fields, field)
		if value != "" {
			fields[field] = value
		}
	}
	entry, err := newEntry(fields, time.Now().Round(0).UTC())
	if err != nil {
		return nil, err
	}
	next := &stored{Entry: entry, vendor: u.vendor, name: u.name, key: signingKey{pair: a.next.Active, allowed: a.next.Allowed}}
	credential, err := a.store.open(next)
	if err != nil {
		return nil, err
	}
	entry.SentTo = credential.SentTo
	change := a.changes.Of(u.name)
	r := replacement{next: entry, stored: u, known: u.last(change.Known)}
	entry.Verified, err = change.Verify(ctx, credential, r.grant())
	if err != nil {
		outcome := u.path() + " goes on with the active pair of " + KeypairPath(a.name) + ", and the pending one stays pending"
		return r.answered(), &VerifyError{Err: err, Outcome: outcome, InOutage: outcome}
	}
	a.next.Activated[u.name] = activated{Of: u.generation, Entry: entry}
	return r.answered(), nil
}

// settle moves each credential from the key pair's entry into its own.
func (a *activation) settle(ctx context.Context) error {
	for _, u := range a.users {
		u.Entry = a.next.Activated[u.name].Entry
		if err := u.put(ctx, a.storage); err != nil {
			return err
		}
		if err := broker.DeleteState(ctx, a.storage, u.name); err != nil {
			return err
		}
	}
	return putKeypair(ctx, a.storage, a.name, &Keypair{Active: a.next.Active, Allowed: a.next.Allowed})
}

// forgetActivated drops what an activation has made of a credential that has been deleted: its
// secrets must not stay in the key pair's entry.
func (st *Store) forgetActivated(ctx context.Context, s logical.Storage, keypair, credential string) {
	k, err := getKeypair(ctx, s, keypair)
	if err == nil && k != nil {
		if _, isUnsettled := k.Activated[credential]; !isUnsettled {
			return
		}
		delete(k.Activated, credential)
		err = putKeypair(ctx, s, keypair, k)
	}
	if err != nil {
		st.Logger().Warn("what an activation has made of a deleted credential is left in the key pair's entry", "keypair", keypair, "name", credential, "error", err)
	}
}
