package credential

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A ClientRequest is what an operator sends for a client. A nil field stays unchanged.
type ClientRequest struct {
	WriteRequest // Verify has no meaning for a client

	Description *string
	ReapAfter   *time.Duration

	// DropFormer is whether to drop the former secrets now.
	DropFormer bool
}

// WriteClient checks and stores a client of a vendor. From then on, all credentials that use it have it.
// Its errors are *ConflictError, *NotFoundError, *provider.Error of kind Invalid, broker.ErrBusy and
// *storage.Error.
func (st *Store) WriteClient(ctx context.Context, s logical.Storage, vendor, name string, w ClientRequest) error {
	given, _ := w.Fields["keypair"].(string)
	change, err := st.beginClient(ctx, s, name, vendor, given)
	if err != nil {
		return err
	}
	defer change.end()
	stored, p := change.stored, change.vendor
	path := apipath.Client(name)
	switch {
	case w.Operation == Patch && stored == nil:
		return &NotFoundError{Path: path, What: "client"}
	case p == nil:
		return provider.Errorf(provider.Invalid, "vendor: must be set: the name of one of those that vendors/ lists")
	case stored != nil && stored.Vendor != p.Name():
		return provider.Errorf(provider.Invalid, "vendor: %s is a client of %s; create another one", path, stored.Vendor)
	}
	if err := CheckHasClients(p); err != nil {
		return err
	}
	if err := CheckConflict(w.Operation, path, change.exists); err != nil {
		return err
	}
	rules, err := change.rotationRules(stored, w)
	if err != nil {
		return err
	}
	next, err := st.nextClient(p, name, stored, rules, w)
	if err != nil {
		return err
	}
	key, _, err := readKey(ctx, s, keypairOf("", next.Fields))
	if err != nil {
		return err
	}
	if next.SentTo, err = st.destinations(p, name, next.Fields, key); err != nil {
		return provider.Errorf(provider.Invalid, "with these fields, no credential could use the client: %s", err)
	}
	if err := w.checkClientDestinations(stored, next); err != nil {
		return err
	}
	if err := change.checkRotation(next); err != nil {
		return err
	}
	if stored != nil && !next.SentTo.within(stored.SentTo) {
		next.Formers = nil
	}
	if change.exists && (stored == nil || stored.Settings != next.Settings || !slices.Equal(stored.SentTo, next.SentTo) || keypairOf("", stored.Fields) != keypairOf("", next.Fields)) {
		if err := change.checkUsers(next); err != nil {
			return err
		}
	}
	if err := st.bindClientKeypair(ctx, s, next, key); err != nil {
		return err
	}
	if err := change.put(next); err != nil {
		return err
	}
	if stored != nil {
		st.logForgotten(path, FieldSchemas(p), stored.Rotation, next.Rotation)
	}
	return nil
}

// rotationRules returns the rules of the rotation of a client's secret: of the stored one, or of what a write makes of it;
// zero if neither rotates. Its error is of type *storage.Error.
func (c *clientChange) rotationRules(stored *Client, w ClientRequest) (provider.RotationRules, error) {
	before := &storedCredential{Entry: &Entry{Fields: map[string]any{}}}
	if stored != nil {
		before.Entry = &Entry{Fields: stored.Fields}
	}
	for _, fields := range []map[string]any{before.Fields, w.apply(before)} {
		opened, err := c.open(c.ctx, fields)
		if storage.IsError(err) {
			return provider.RotationRules{}, err
		}
		if rules := rulesOf(opened); rules.Replaces != nil {
			return rules, nil
		}
	}
	return provider.RotationRules{}, nil
}

// nextClient returns the client that a write stores, but for its destinations. rules are those of the rotation of its
// secret.
func (st *Store) nextClient(p provider.Provider, name string, stored *Client, rules provider.RotationRules, w ClientRequest) (*Client, error) {
	for _, field := range ownFields {
		if w.Fields[field] != nil {
			return nil, provider.Errorf(provider.Invalid, "%s: each credential of a client has its own; give it to config/%s/<name>", field, p.Name())
		}
	}
	last := &Client{Vendor: p.Name()}
	var entry *storedCredential // apply takes the fields of a credential
	if stored != nil {
		last, entry = stored, &storedCredential{Entry: &Entry{Fields: stored.Fields}}
	}
	next := *last
	next.Fields = w.apply(entry)
	if w.Description != nil {
		next.Description = *w.Description
	}
	if w.ReapAfter != nil {
		next.ReapAfter = *w.ReapAfter
	}
	grantTypes := FieldSchemas(p)[grantTypeField]
	switch {
	case next.ReapAfter != 0 && next.ReapAfter < minReapAfter:
		return nil, provider.Errorf(provider.Invalid, "reap_after: must be at least %s, so that a person has the time to consent again; or 0 for never", inUnits(minReapAfter))
	case next.Fields["private_key_source"] != nil && next.Fields["keypair"] == nil:
		return nil, provider.Errorf(provider.Invalid, "keypair: must be set: the name of the key pair, which has %q in its allowed_clients", name)
	case grantTypes != nil && next.Fields[grantTypeField] == nil:
		return nil, provider.Errorf(provider.Invalid, "grant_type: must be set, so that no credential of the client gets tokens of another kind, such as the application's own (allowed: %s)", listed(grantTypes.AllowedValues))
	}
	if err := checkDescription(next.Description); err != nil {
		return nil, err
	}
	if err := next.setVersions(p, last, w, rules.Replaces, st.broker.HasWorked(name, "", last.Secrets)); err != nil {
		return nil, err
	}
	if w.DropFormer {
		next.Formers = nil
	}
	change := secretWrite{
		schemas: FieldSchemas(p), rules: rules, old: last.Fields, next: next.Fields,
		isOtherKey: keypairOf("", last.Fields) != keypairOf("", next.Fields),
	}
	if err := change.check(w.Fields); err != nil {
		return nil, err
	}
	next.Rotation = change.after(last.Rotation)
	_, err := next.rotationPlan()
	return &next, err
}

func listed(values []any) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = fmt.Sprint(value)
	}
	return strings.Join(texts, ", ")
}

// setVersions sets what identifies the client after a write, and its former authentications. rotated are the fields
// that a rotation replaces; they change together with the secret. hasWorked is whether the vendor has issued a token
// with the last one.
func (c *Client) setVersions(p provider.Provider, last *Client, w ClientRequest, rotated []string, hasWorked bool) (err error) {
	var changed []string
	for field := range FieldSchemas(p) {
		if !reflect.DeepEqual(c.Fields[field], last.Fields[field]) {
			changed = append(changed, field)
		}
	}
	proves := func(field string) bool { return isProof(p, field) }
	authenticates := func(field string) bool { return isAuthentication(p, field) || slices.Contains(rotated, field) }
	if last.Settings == "" || slices.ContainsFunc(changed, func(field string) bool { return !authenticates(field) && !slices.Contains(rotationFields, field) }) {
		if c.Settings, err = newGeneration(); err != nil {
			return err
		}
		c.Formers = nil // perhaps of another client at the vendor
	}
	// The same secret again may work now, as the vendor was corrected.
	isGiven := slices.ContainsFunc(sortedKeys(w.Fields), proves)
	if last.Secrets == "" || isGiven || slices.ContainsFunc(changed, authenticates) {
		if c.Secrets, err = newGeneration(); err != nil {
			return err
		}
		c.SecretsTime = wallTime()
		hadProof := slices.ContainsFunc(sortedKeys(last.Fields), proves)
		if hadProof && slices.ContainsFunc(changed, proves) && c.Settings == last.Settings {
			c.Formers = formers(last, hasWorked)
		}
	}
	c.setSecretFields(p)
	return nil
}

// setSecretFields adds the secret ones of the fields to SecretFields, and removes those that are not set.
func (c *Client) setSecretFields(p provider.Provider) {
	schemas, before := FieldSchemas(p), c.SecretFields
	c.SecretFields = slices.DeleteFunc(sortedKeys(c.Fields), func(field string) bool {
		return !IsSecret(schemas[field]) && !slices.Contains(before, field)
	})
}

// formers returns what to go back to after a change of a client's authentication: the last one, and those before
// it unless the last one has worked.
func formers(last *Client, hasWorked bool) []FormerClient {
	all := []FormerClient{{Fields: maps.Clone(last.Fields), Secrets: last.Secrets}}
	if !hasWorked {
		all = append(all, last.Formers...)
	}
	return all[:min(len(all), maxFormers)]
}

// checkClientDestinations returns an error if a write would send a stored secret of the client to a
// destination that the writer of the secret did not choose. (Guarantee 13.)
func (w ClientRequest) checkClientDestinations(stored, next *Client) error {
	if stored == nil {
		return nil
	}
	added := next.SentTo.beyond(stored.SentTo)
	var missing []string
	for _, field := range next.SecretFields {
		if _, isGiven := w.Fields[field]; !isGiven {
			missing = append(missing, field)
		}
	}
	if len(missing) == 0 || len(added) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "%s: must be given again, as this write would send the stored value to a new destination: %.300s", strings.Join(missing, ", "), added)
}

// checkUsers checks each credential that uses the client (checkUser).
func (c *clientChange) checkUsers(next *Client) error {
	users, err := c.users()
	if err != nil {
		return err
	}
	for _, user := range users {
		if err := c.checkUser(user, &clientUse{name: c.name, Client: next}); err != nil {
			return err
		}
	}
	return nil
}

// checkUser returns an error if a credential could not be used with the client as it would be, or if it would
// send the credential's own secrets to a new destination. (Guarantee 13.) An entry that an activation has left
// in the client's key pair is moved into place, as it could not be found with another key pair.
func (c *clientChange) checkUser(name string, client *clientUse) error {
	st := c.store
	own, err := st.getOwn(c.ctx, c.storage, c.vendor, name)
	switch {
	case storage.IsError(err):
		return err
	case err != nil || own == nil: // damaged, or deleted meanwhile
		return nil
	}
	_, before := st.openLoaded(c.ctx, c.storage, own)
	if own.Generation != own.generation {
		if err := own.put(c.ctx, c.storage); err != nil {
			return err
		}
		own.generation = own.Generation
	}
	own.client = client
	opened, err := st.openLoaded(c.ctx, c.storage, own)
	switch {
	case storage.IsError(err):
		return err
	case err != nil && before != nil: // it did not work before either
		return nil
	case err != nil:
		return provider.Errorf(provider.Invalid, "with it, %s is refused: %s", own.path(), err)
	}
	if added := Destinations(opened.SentTo).beyond(own.SentTo); len(added) > 0 && len(own.secretFields()) > 0 {
		return provider.Errorf(provider.Invalid, "with it, the stored secrets of %s would be sent to a new destination: %.300s; create another client, or delete the credential first", own.path(), added)
	}
	return nil
}

// openLoaded is open after loadKey.
func (st *Store) openLoaded(ctx context.Context, s logical.Storage, c *storedCredential) (*broker.Credential, error) {
	if err := c.loadKey(ctx, s); err != nil {
		return nil, err
	}
	return st.open(c)
}

// bindClientKeypair restricts the key pair of a client, if it has no allowed hosts, to those of the client.
func (st *Store) bindClientKeypair(ctx context.Context, s logical.Storage, next *Client, key signingKey) error {
	caCert, _ := next.Fields["ca_cert"].(string)
	return st.bind(ctx, s, keypairOf("", next.Fields), key, next.SentTo, caCert, 0)
}

// DeleteClient deletes a client that no credential uses, and removes what a rotation has left at the vendor. leftovers
// describes what it could not remove.
func (st *Store) DeleteClient(ctx context.Context, s logical.Storage, name string) (leftovers []string, err error) {
	change, err := st.beginClient(ctx, s, name, "")
	if err != nil {
		return nil, err
	}
	defer change.end()
	users, err := change.users()
	if err != nil {
		return nil, err
	}
	if len(users) > 0 {
		shown := make([]string, 0, maxShownUsers)
		for _, user := range users[:min(len(users), maxShownUsers)] {
			shown = append(shown, change.pathOf(user))
		}
		more := ""
		if left := len(users) - len(shown); left > 0 {
			more = fmt.Sprintf(" and %d more", left)
		}
		return nil, provider.Errorf(provider.Invalid, "%s is used by %s%s; delete these credentials first, or give them another client", apipath.Client(name), strings.Join(shown, ", "), more)
	}
	leftovers = change.removeSecrets()
	if err := storage.Delete(change.ctx, s, storage.ClientKey(name)); err != nil {
		return nil, err
	}
	st.unsavedRotations.drop(storage.ClientKey(name))
	return leftovers, nil
}

// maxShownUsers is how many credentials an error or a read of a client names.
const maxShownUsers = 20

// minReapAfter is the shortest time after which a rejected credential can be deleted.
const minReapAfter = time.Hour
