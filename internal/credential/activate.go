package credential

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// An activation changes the key pair and every credential that uses it: the private key, the
// generation and, where the vendor issues one, the client ID. A partial change works with no
// vendor, and a server can be killed at any point. The switch is therefore a single write: the key
// pair's entry holds the new active pair together with the new entry of each credential. Loading a
// credential also loads its key pair (loadKey) and prefers the entry there over the credential's
// own, provided that its own is still the one that the activation replaced.
//
// If that write fails, or the server is killed before it, nothing has changed. Once it succeeds,
// the activation is complete. settle then moves the entries into place, which is only cleanup.
//
// A refresh token that the vendor rotates during the activation is part of the same write. It is
// also stored before the next credential is exchanged, so that neither a rejection of that one nor
// a kill in between loses it.

// An unsettledEntry is the new entry of a credential that an activation has changed.
type unsettledEntry struct {
	// Of is the generation of the entry that Entry replaces. If the stored generation differs,
	// the credential has since been written or deleted, and Entry is void.
	Of    string `json:"of"`
	Entry *Entry `json:"entry"`
}

// An ActivationRequest holds the fields that an operator sends when activating a pending pair. They
// are set on the credentials that use the key pair. nil leaves a field unchanged, "" clears it.
type ActivationRequest struct {
	ClientID, KeyID *string

	// IsForced asks for the activation of a published pair that the vendor may not have fetched yet.
	IsForced bool

	By string // who asks for the activation

	// bySchedule asks for the activation only if it is due. It then needs no credential.
	bySchedule bool
}

// fields returns the fields that are given, by name.
func (a ActivationRequest) fields() map[string]string {
	given := map[string]string{}
	for field, value := range map[string]*string{"client_id": a.ClientID, "key_id": a.KeyID} {
		if value != nil {
			given[field] = *value
		}
	}
	return given
}

// check returns an error if no credential uses the key pair, as no vendor would then be asked
// whether it accepts the pending pair, or if a client ID is given for credentials whose client IDs
// differ.
func (a ActivationRequest) check(name string, us users) error {
	if len(us) == 0 && !a.bySchedule {
		return provider.Errorf(provider.Invalid, "no credential uses %[1]s, so no vendor can accept the pending pair; the active pair is kept; "+
			"store a credential that uses it first (verify=false if the vendor knows only the pending pair), or delete %[1]s", apipath.Keypair(name))
	}
	for _, u := range us {
		for field := range a.fields() {
			if u.client != nil && u.client.Client != nil && u.client.Fields[field] != nil {
				return provider.Errorf(provider.Invalid, "%s: is set by %s, which uses %s; instead of activating the pending pair, create another key pair, and write its name and the %s to the client", field, u.client.path(), apipath.Keypair(name), field)
			}
		}
	}
	if a.ClientID == nil {
		return nil
	}
	for _, u := range us {
		if u.setting("client_id") != us[0].setting("client_id") {
			return provider.Errorf(provider.Invalid, "client_id: %s and %s have different client IDs; give each credential its own key pair", us[0].path(), u.path())
		}
	}
	return nil
}

// checkFetched returns an error if the vendor may not have fetched the pending pair of a published key pair yet, and no
// exchange of a credential shows whether it has.
func (st *Store) checkFetched(name string, k *Keypair, us users) error {
	from := k.fetchedFrom() // long ago for a pair that is not published, whose key an operator registers
	if !wallTime().Before(from) {
		return nil
	}
	for _, u := range us {
		credential, err := st.open(u)
		if err != nil { // the activation fails with it
			continue
		}
		if cannotVerify(credential) || credential.Vendor.Destinations().Signs {
			return provider.Errorf(provider.Invalid, "the pending pair of %s has been published only since %s, and no exchange of %s shows whether the vendor has fetched it; "+
				"wait until %s, or give force=true to activate it now", apipath.Keypair(name), broker.FormatTime(k.Pending.PublishedTime), u.path(), broker.FormatNext(from))
		}
	}
	return nil
}

// Activate replaces the active pair with the pending one if the vendor accepts it for every
// credential that uses the key pair, of which there must be at least one. Otherwise nothing changes.
// Its errors are those of Write.
func (st *Store) Activate(ctx context.Context, s logical.Storage, name string, a ActivationRequest) error {
	err := st.activate(ctx, s, name, a)
	var refused *VerifyError
	if errors.As(err, &refused) {
		failures := 1
		if rotation := st.KeypairRotation(ctx, s, name); rotation != nil {
			failures += rotation.Failures
		}
		st.reportRotation(name, failures, a.By, err)
	}
	return err
}

func (st *Store) activate(ctx context.Context, s logical.Storage, name string, a ActivationRequest) error {
	us, err := st.usersOf(ctx, s, name)
	if err != nil {
		return err
	}
	names := us.names()
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
	case k == nil && a.bySchedule:
		return errNotDue
	case k == nil:
		return provider.Errorf(provider.Invalid, "no key pair named %q; create one at %s", name, apipath.Keypair(name))
	case a.bySchedule && !k.isDueForActivation():
		return errNotDue
	case k.Pending == nil:
		return provider.Errorf(provider.Invalid, "%s has no pending pair (active: %s, created %s); create one by a write to %s",
			apipath.Keypair(name), k.Active.KeyID, broker.FormatTime(k.Active.CreatedTime), apipath.Keypair(name))
	}
	if us, err = st.usersOf(ctx, s, name); err != nil {
		return err
	}
	if !slices.Equal(us.names(), names) { // changed before the lock was taken
		return broker.ErrBusy
	}
	if err := us.loadKeys(ctx, s); err != nil {
		return err
	}
	if err := a.check(name, us); err != nil {
		return err
	}
	if !a.IsForced {
		if err := st.checkFetched(name, k, us); err != nil {
			return err
		}
	}
	now := wallTime()
	if from := k.Publication.roomFrom(now); !from.IsZero() {
		return provider.Errorf(provider.Invalid, "%s has %d retired keys that stay published until what they have signed has expired, and cannot have more; the active pair is kept; wait until %s",
			apipath.Keypair(name), maxRetired, broker.FormatNext(from))
	}
	next, err := k.rotated(now, st.longestSigned(us))
	if err != nil {
		return err
	}
	run := &activationRun{store: st, storage: s, name: name, changes: changes, users: us, given: a.fields(), next: next}
	if err := run.switchKeys(ctx); err != nil {
		return errors.Join(append([]error{err}, run.failed(ctx, err)...)...)
	}
	for _, u := range us {
		changes.Of(u.name).Committed()
	}
	what := "key pair activated"
	if a.bySchedule {
		what = "key pair rotated by its schedule"
	}
	st.Logger().Info(what, "keypair", name, "key_id", k.Pending.KeyID)
	st.reportRotation(name, 0, a.By, nil)
	return nil
}

// An activationRun is an activation in progress.
type activationRun struct {
	store   *Store
	storage logical.Storage
	name    string
	changes *broker.Changes
	users   users
	given   map[string]string
	next    *Keypair // the entry to store

	// answered holds, by name, the states that the exchanges so far leave for the stored
	// credentials. A state is nil if the exchange left nothing to keep.
	answered map[string]*broker.State
}

// switchKeys exchanges each credential with the pending pair, then stores the new key pair.
func (a *activationRun) switchKeys(ctx context.Context) error {
	a.answered = map[string]*broker.State{}
	for i, u := range a.users {
		answered, err := a.verify(ctx, u)
		a.answered[u.name] = answered
		if err == nil && answered != nil && i < len(a.users)-1 { // the switch itself stores the last one
			err = a.changes.Of(u.name).Save(ctx, answered)
		}
		if err != nil {
			return err
		}
	}
	if err := a.store.putKeypair(ctx, a.storage, a.name, a.next); err != nil {
		return err
	}
	if err := a.settle(ctx); err != nil {
		a.store.Logger().Warn("cannot move activated credentials out of the key pair's entry; they are read from there", "keypair", a.name, "error", err)
	}
	return nil
}

// failed keeps the states that the exchanges left for the credentials, which stay unchanged. It
// returns the errors of storing them.
func (a *activationRun) failed(ctx context.Context, err error) []error {
	var failures []error
	for name, answered := range a.answered {
		if joined := a.changes.Of(name).Failed(ctx, answered, err); !errors.Is(err, joined) {
			failures = append(failures, joined)
		}
	}
	return failures
}

// verify exchanges a credential with the pending pair. It returns the state that this leaves for
// the stored credential; nil if there is nothing to keep.
func (a *activationRun) verify(ctx context.Context, u *storedCredential) (*broker.State, error) {
	fields := maps.Clone(u.Fields)
	for field, value := range a.given {
		// Where several credentials share the key pair, one without a key_id belongs to a vendor
		// that identifies the key by its thumbprint.
		if field == "key_id" && len(a.users) > 1 && fields[field] == nil {
			continue
		}
		delete(fields, field)
		if value != "" {
			fields[field] = value
		}
	}
	generation, err := newGeneration()
	if err != nil {
		return nil, err
	}
	key := a.next.signingKey()
	next, credential, err := a.store.build(revision{vendor: u.vendor, name: u.name, fields: fields, key: key, client: u.client, generation: generation, time: wallTime(), consented: u.Consented, refreshTokenTime: u.RefreshTokenTime, rotation: u.Rotation})
	if err != nil {
		return nil, err
	}
	credential.Formers = nil // which would accept the present key in place of the pending one
	change := a.changes.Of(u.name)
	r := replacement{stored: u, known: u.latestState(change.Known), next: next, credential: credential}
	state := broker.Unverified(credential, r.grant())
	if !cannotVerify(credential) {
		state, err = change.Verify(ctx, credential, r.grant())
	}
	r = r.withVerified(state)
	if err != nil {
		outcome := u.path() + " keeps using the active pair of " + apipath.Keypair(a.name) + "; the pending pair stays pending"
		return r.answered(), &VerifyError{Err: err, Outcome: outcome, InOutage: outcome}
	}
	a.next.Activated[u.name] = unsettledEntry{Of: u.generation, Entry: r.next.Entry}
	return r.answered(), nil
}

// settle moves the new entry of each credential from the key pair's entry to the credential's key.
func (a *activationRun) settle(ctx context.Context) error {
	for _, u := range a.users {
		u.Entry = a.next.Activated[u.name].Entry
		if err := u.put(ctx, a.storage); err != nil {
			return err
		}
		if err := broker.DeleteState(ctx, a.storage, u.name); err != nil {
			return err
		}
	}
	if len(a.users) == 0 {
		return nil
	}
	settled := *a.next
	settled.Activated = nil
	return a.store.putKeypair(ctx, a.storage, a.name, &settled)
}

// forgetActivated removes a deleted credential from the key pair's entry, so that its secrets do
// not stay there.
func (st *Store) forgetActivated(ctx context.Context, s logical.Storage, keypair, credential string) {
	k, err := getKeypair(ctx, s, keypair)
	if err == nil && k != nil {
		if _, isUnsettled := k.Activated[credential]; !isUnsettled {
			return
		}
		delete(k.Activated, credential)
		err = st.putKeypair(ctx, s, keypair, k)
	}
	if err != nil {
		st.Logger().Warn("cannot remove a deleted credential from the key pair's entry", "keypair", keypair, "name", credential, "error", err)
	}
}
