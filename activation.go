package tokenbroker

import (
	"context"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Activating a pair changes the key pair and every credential that uses it: their private
// key, their generation and, where the vendor gives one, their client ID. Half of that
// works with no vendor, and a server can be killed at any point. So one write is the
// switch, that of the key pair: it has the pair as active, and with it each credential as
// it is from then on. Whoever loads a credential loads its key pair too (resolve), and
// takes what that has for what is stored, as long as it is still that which was activated.
//
// Killed before the write, or with storage that refuses it, nothing has happened. Killed
// after it, all has. What follows, that each credential's own entry says it (settle), is
// tidiness: until then the key pair's does, and a later write to a credential, which is
// of what is loaded, settles that one.
//
// A refresh token that the vendor replaces on the occasion is part of the same write, and
// is stored before the next credential is asked about, so that neither another's refusal
// nor a kill in between loses it.

// activated is a credential as an activation has made it.
type activated struct {
	// Of is the generation of the stored entry that Entry takes the place of. Under any
	// other it is void: the credential has been written since, or deleted.
	Of    string       `json:"of"`
	Entry *configEntry `json:"entry"`
}

// activate has the pending pair take the active one's place. The caller has the key pair
// to itself, so that no other credential takes it up meanwhile.
func (b *backend) activate(ctx context.Context, s logical.Storage, name string, d *framework.FieldData) error {
	k, err := getKeypair(ctx, s, name)
	switch {
	case err != nil:
		return err
	case k == nil:
		return provider.Errorf(provider.Invalid, "%q is no key pair: make one by a write to %s%s", name, keypairPrefix, name)
	case k.Pending == nil:
		return provider.Errorf(provider.Invalid, "%s%s has no pending pair, and the active one is %s of %s: make one by a write to %s%s",
			keypairPrefix, name, k.Active.KeyID, broker.FormatTime(k.Active.CreatedTime), keypairPrefix, name)
	}
	all, err := usersOf(ctx, s, name)
	if err != nil {
		return err
	}
	if err := all.resolve(ctx, s); err != nil {
		return err
	}
	if err := all.share(d); err != nil {
		return err
	}
	a := &activation{
		backend: b, storage: s, name: name, users: all, given: d,
		next: &keypair{Active: k.Pending, allowance: k.allowance, Activated: map[string]activated{}},
	}
	if err := a.run(ctx, all); err != nil {
		return err
	}
	b.Logger().Info("key pair activated", "keypair", name, "key_id", k.Pending.KeyID)
	return nil
}

// share refuses a field that would go to nobody, and one client ID for credentials that
// have different ones.
func (us users) share(d *framework.FieldData) error {
	for _, field := range activateFields {
		if _, given := d.GetOk(field); given && len(us) == 0 {
			return provider.Errorf(provider.Invalid, "%s: is for the credentials that use the key pair, and none does; leave it out, and give it to those that you write", field)
		}
	}
	if _, given := d.GetOk("client_id"); !given {
		return nil
	}
	for _, u := range us {
		if !reflect.DeepEqual(u.entry.Fields["client_id"], us[0].entry.Fields["client_id"]) {
			return provider.Errorf(provider.Invalid, "client_id: cannot be that of both %s and %s, which have different ones now; give each a key pair of its own", us[0].path(), u.path())
		}
	}
	return nil
}

// activateFields are what an activation may give the credentials beside the key.
var activateFields = []string{"client_id", "key_id"}

// An activation is one that is under way.
type activation struct {
	*backend
	storage logical.Storage
	name    string
	users   users
	given   *framework.FieldData
	next    *keypair // what is to be stored
}

// run exchanges each credential with the new pair, one inside the other, so that nothing
// else happens to any of them until all is done, and makes the switch in the midst. What
// a vendor answered for a credential that stays as it was is kept on the way back.
func (a *activation) run(ctx context.Context, left users) error {
	if len(left) == 0 {
		return a.finish(ctx)
	}
	u, left := left[0], left[1:]
	return a.broker.Change(ctx, a.storage, u.name, func(ctx context.Context, known *broker.State) (*broker.State, error) {
		stored, err := getConfig(ctx, a.storage, u.provider.Name(), u.name)
		switch {
		case err != nil:
			return nil, err
		case stored == nil || keypairName(u.name, stored.Fields) != a.name: // somebody has taken it away
			return nil, broker.ErrBusy
		}
		answered, err := a.try(ctx, u, stored, stored.last(known))
		if err == nil && answered != nil && len(left) > 0 {
			err = a.broker.Keep(ctx, a.storage, u.name, answered)
		}
		if err == nil {
			err = a.run(ctx, left)
		}
		if err != nil {
			return answered, err
		}
		return nil, nil
	})
}

// try exchanges a credential with the new pair. It returns what the vendor answered for
// the credential as it is stored, if anything.
func (a *activation) try(ctx context.Context, u user, stored *configEntry, known *broker.State) (*broker.State, error) {
	fields := maps.Clone(stored.Fields)
	for _, field := range activateFields {
		value, given := a.given.GetOk(field)
		// One of several that has no key_id is at a vendor who goes by the thumbprint.
		others := field == "key_id" && len(a.users) > 1 && fields[field] == nil
		if !given || others {
			continue
		}
		delete(fields, field)
		if text := strings.TrimSpace(value.(string)); text != "" {
			fields[field] = text
		}
	}
	next, err := newEntry(fields, time.Now().Round(0).UTC())
	if err != nil {
		return nil, err
	}
	next.pair, next.allowance = a.next.Active, a.next.allowance
	credential, err := a.open(u.provider, u.name, next)
	if err != nil {
		return nil, err
	}
	next.SentTo = destinationsOf(credential.Vendor, caCertOf(next))
	next.Verified, err = a.broker.Verify(ctx, a.storage, u.name, credential, next.lastGrant(stored, known))
	answered := next.answered(stored, known)
	if err != nil {
		outcome := u.path() + " goes on with the active pair of " + keypairPrefix + a.name + ", and the pending one stays pending"
		return answered, &verifyError{error: err, outcome: outcome, unchecked: outcome}
	}
	a.next.Activated[u.name] = activated{Of: stored.stored, Entry: next}
	return answered, nil
}

// finish makes the switch, and settles it as well as it can.
func (a *activation) finish(ctx context.Context) error {
	if err := putKeypair(ctx, a.storage, a.name, a.next); err != nil {
		return err
	}
	if err := a.settle(ctx); err != nil {
		a.Logger().Warn("what an activation has changed is left in the key pair's entry, which is as good", "keypair", a.name, "error", err)
	}
	return nil
}

// settle moves each credential from the key pair's entry into its own.
func (a *activation) settle(ctx context.Context) error {
	for _, u := range a.users {
		if err := putConfig(ctx, a.storage, u.provider.Name(), u.name, a.next.Activated[u.name].Entry); err != nil {
			return err
		}
		if err := broker.DeleteState(ctx, a.storage, u.name); err != nil {
			return err
		}
	}
	return putKeypair(ctx, a.storage, a.name, &keypair{Active: a.next.Active, allowance: a.next.allowance})
}

// forgetActivated drops what an activation has made of a credential that has been
// deleted: its secrets are not to stay in the key pair's entry.
func (b *backend) forgetActivated(ctx context.Context, s logical.Storage, keypair, credential string) {
	k, err := getKeypair(ctx, s, keypair)
	if err == nil && k != nil {
		if _, unsettled := k.Activated[credential]; !unsettled {
			return
		}
		delete(k.Activated, credential)
		err = putKeypair(ctx, s, keypair, k)
	}
	if err != nil {
		b.Logger().Warn("what an activation has made of a deleted credential is left in the key pair's entry", "keypair", keypair, "name", credential, "error", err)
	}
}
