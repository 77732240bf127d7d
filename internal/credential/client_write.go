package credential

import (
	"context"
	"errors"
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
	change, err := st.beginClient(ctx, s, name, vendor)
	if err != nil {
		return err
	}
	defer change.end()
	ctx = change.ctx
	stored, p := change.stored, change.vendor
	path := apipath.Client(name)
	switch {
	case w.Operation == Patch && stored == nil:
		return &NotFoundError{Path: path, What: "client"}
	case p == nil:
		return provider.Errorf(provider.Invalid, "vendor: must be set: the name of one of those that vendors/ lists")
	case !HasClients(p):
		return provider.Errorf(provider.Invalid, "vendor: a credential of %s has no OAuth client to share", p.Name())
	case stored != nil && stored.Vendor != p.Name():
		return provider.Errorf(provider.Invalid, "vendor: %s is a client of %s; create another one", path, stored.Vendor)
	}
	if err := CheckConflict(w.Operation, path, change.exists); err != nil {
		return err
	}
	next, err := st.nextClient(p, name, stored, w, change.hasWorked())
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
	if err := w.checkClientDestinations(p, stored, next); err != nil {
		return err
	}
	if next.Former != nil && !next.SentTo.within(stored.SentTo) {
		next.Former, next.FormerSecrets = nil, ""
	}
	for _, user := range change.users {
		if err := st.checkUser(ctx, s, p, user, &clientUse{name: name, Client: next}); err != nil {
			return err
		}
	}
	if err := st.bindClientKeypair(ctx, s, next, key); err != nil {
		return err
	}
	return change.put(next)
}

// nextClient returns the client that a write stores, but for its destinations. hasWorked is whether the
// stored secrets have worked for a credential.
func (st *Store) nextClient(p provider.Provider, name string, stored *Client, w ClientRequest, hasWorked bool) (*Client, error) {
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
	switch {
	case next.ReapAfter != 0 && next.ReapAfter < minReapAfter:
		return nil, provider.Errorf(provider.Invalid, "reap_after: must be at least %s, so that a person has the time to consent again; or 0 for never", inUnits(minReapAfter))
	case next.Fields["private_key_source"] != nil && next.Fields["keypair"] == nil:
		return nil, provider.Errorf(provider.Invalid, "keypair: must be set: the name of the key pair, which has %q in its allowed_clients", name)
	}
	if err := checkDescription(next.Description); err != nil {
		return nil, err
	}
	if err := next.setVersions(p, last, hasWorked); err != nil {
		return nil, err
	}
	if w.DropFormer {
		next.Former, next.FormerSecrets = nil, ""
	}
	return &next, nil
}

// setVersions sets what identifies the client after a change, and its former fields.
func (c *Client) setVersions(p provider.Provider, last *Client, hasWorked bool) (err error) {
	var changed []string
	for field := range FieldSchemas(p) {
		if !reflect.DeepEqual(c.Fields[field], last.Fields[field]) {
			changed = append(changed, field)
		}
	}
	isSecret := func(field string) bool { return isAuthentication(p, field) }
	isOther := func(field string) bool { return !isSecret(field) }
	hasAuthentication := slices.ContainsFunc(sortedKeys(last.Fields), func(field string) bool { return IsSecret(FieldSchemas(p)[field]) || field == "keypair" })
	if last.Settings == "" || slices.ContainsFunc(changed, isOther) {
		if c.Settings, err = newGeneration(); err != nil {
			return err
		}
		c.Former, c.FormerSecrets = nil, "" // of other settings
	}
	if last.Secrets == "" || slices.ContainsFunc(changed, isSecret) {
		if c.Secrets, err = newGeneration(); err != nil {
			return err
		}
		// With other settings, the former secrets may be those of another client at the vendor. Secrets
		// that have worked nowhere are nothing to go back to.
		if hasAuthentication && c.Settings == last.Settings && (c.Former == nil || hasWorked) {
			c.Former, c.FormerSecrets = maps.Clone(last.Fields), last.Secrets
		}
	}
	schemas := FieldSchemas(p)
	c.SecretFields = slices.DeleteFunc(sortedKeys(c.Fields), func(field string) bool {
		return !IsSecret(schemas[field]) && !slices.Contains(last.SecretFields, field)
	})
	return nil
}

// checkClientDestinations returns an error if a write would send a stored secret of the client to a
// destination that the writer of the secret did not choose. (Guarantee 13.)
func (w ClientRequest) checkClientDestinations(p provider.Provider, stored, next *Client) error {
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

// checkUser returns an error if a credential could not be used with the client as it would be, or if it
// would send the credential's own secrets to a new destination. (Guarantee 13.)
func (st *Store) checkUser(ctx context.Context, s logical.Storage, p provider.Provider, name string, client *clientUse) error {
	own, err := st.getOwn(ctx, s, p, name)
	switch {
	case storage.IsError(err):
		return err
	case err != nil || own == nil: // damaged, or deleted meanwhile
		return nil
	}
	_, before := st.openLoaded(ctx, s, own)
	own.client = client
	opened, err := st.openLoaded(ctx, s, own)
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
	return st.bind(ctx, s, keypairOf("", next.Fields), key, next.SentTo, caCert)
}

// DeleteClient deletes a client that no credential uses.
func (st *Store) DeleteClient(ctx context.Context, s logical.Storage, name string) error {
	change, err := st.beginClient(ctx, s, name, "")
	if err != nil {
		return err
	}
	defer change.end()
	if len(change.users) > 0 {
		shown := make([]string, 0, maxShownUsers)
		for _, user := range change.users[:min(len(change.users), maxShownUsers)] {
			shown = append(shown, change.pathOf(user))
		}
		more := ""
		if left := len(change.users) - len(shown); left > 0 {
			more = fmt.Sprintf(" and %d more", left)
		}
		return provider.Errorf(provider.Invalid, "%s is used by %s%s; delete these credentials first, or give them another client", apipath.Client(name), strings.Join(shown, ", "), more)
	}
	return storage.Delete(change.ctx, s, storage.ClientKey(name))
}

// maxShownUsers is how many credentials an error or a read of a client names.
const maxShownUsers = 20

// minReapAfter is the shortest time after which a rejected credential can be deleted.
const minReapAfter = time.Hour

// A clientChange is a change of a client in progress. Until its end, nothing else changes the client, its
// vendor or the credentials that use it.
type clientChange struct {
	ctx     context.Context //nolint:containedctx // it does not end with the request, as it locks many credentials
	store   *Store
	storage logical.Storage
	name    string
	exists  bool
	stored  *Client           // nil if there is none, or if it is damaged
	vendor  provider.Provider // of stored, or of the write that creates it; nil if unknown
	users   []string
	changes *broker.Changes
	unlock  func()
}

func (c *clientChange) end() {
	c.unlock()
	c.changes.End()
}

// pathOf returns the path of a user, as operators write it.
func (c *clientChange) pathOf(user string) string {
	if c.stored == nil {
		return apipath.Status(user)
	}
	return apipath.Credential(c.stored.Vendor, user)
}

// hasWorked reports whether the vendor has accepted the stored secrets from one of the users.
func (c *clientChange) hasWorked() bool {
	return c.stored != nil && slices.ContainsFunc(c.users, func(user string) bool { return c.accepted(user) == c.stored.Secrets })
}

// accepted returns the version of the secrets that the vendor last accepted from a user; "" if unknown.
func (c *clientChange) accepted(user string) string {
	known := c.changes.Of(user).Known
	if known == nil {
		return ""
	}
	return known.Client.Accepted
}

// put stores the client, and has its users loaded anew.
func (c *clientChange) put(next *Client) error {
	err := storage.Retry(c.ctx, func() error { return storage.Put(c.ctx, c.storage, storage.ClientKey(c.name), next) })
	for _, user := range c.users { // also after an error, as the write may have succeeded
		c.store.broker.Forget(user)
	}
	return err
}

// beginClient begins a change of a client. It locks the credentials first and the client last, as writes
// of credentials do. vendor is that of a client that does not exist yet. Its errors are those of
// broker.BeginWrites, and of type *storage.NewerFormatError.
func (st *Store) beginClient(ctx context.Context, s logical.Storage, name, vendor string) (*clientChange, error) {
	for range maxBegins {
		users, err := st.UsersOfClient(ctx, s, name)
		if err != nil {
			return nil, err
		}
		next, changes, err := st.broker.BeginWrites(ctx, s, users...)
		if err != nil {
			return nil, err
		}
		c := &clientChange{ctx: next, store: st, storage: s, name: name, changes: changes, unlock: func() {}}
		if err = c.lock(vendor); err == nil {
			c.users, err = st.UsersOfClient(next, s, name)
		}
		if err == nil && !slices.ContainsFunc(c.users, func(one string) bool { return !slices.Contains(users, one) }) {
			return c, nil
		}
		c.end()
		if err != nil {
			return nil, err
		}
	}
	return nil, broker.ErrBusy
}

// lock locks the definition of the client's vendor and the client, and reads both.
func (c *clientChange) lock(vendor string) error {
	err := c.read()
	if err != nil {
		return err
	}
	if c.stored != nil && vendor == "" {
		vendor = c.stored.Vendor
	}
	keys := []string{storage.ClientKey(c.name)}
	if vendor != "" && c.store.options.BuiltIn(vendor) == nil {
		keys = append(keys, storage.VendorKey(vendor))
	}
	unlock, err := c.store.broker.Lock(c.ctx, keys...)
	if err != nil {
		return err
	}
	c.unlock = unlock
	if err := c.read(); err != nil || vendor == "" {
		return err
	}
	c.vendor, err = c.store.Vendor(c.ctx, c.storage, vendor)
	return err
}

// read reads the client.
func (c *clientChange) read() (err error) {
	c.stored, err = getClient(c.ctx, c.storage, c.name)
	c.exists = c.stored != nil || storage.IsDamaged(err)
	if storage.IsDamaged(err) { // a write or a deletion repairs it
		err = nil
	}
	return err
}

// lockClient locks the client with which a credential was verified, until unlock is called. It returns an
// error if that is not the stored one any more.
func (st *Store) lockClient(ctx context.Context, s logical.Storage, use *clientUse) (unlock func(), err error) {
	if use == nil {
		return func() {}, nil
	}
	if unlock, err = st.broker.Lock(ctx, storage.ClientKey(use.name)); err != nil {
		return nil, err
	}
	current, err := readClientUse(ctx, s, use.name)
	if err == nil && current.version() != use.version() {
		err = provider.Errorf(provider.Invalid, "%s was changed while the credential was verified, and nothing was stored; send the write again", use.path())
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// UsersOfClient returns the names of the credentials that use a client, sorted. A damaged credential uses
// none.
func (st *Store) UsersOfClient(ctx context.Context, s logical.Storage, client string) ([]string, error) {
	vendors, err := st.inUse(ctx, s)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, vendor := range vendors {
		names, err := st.NamesOf(ctx, s, vendor)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			entry, err := storage.Get[Entry](ctx, s, storage.CredentialKey(vendor, name), repairCredential)
			var newer *storage.NewerFormatError
			switch {
			case errors.As(err, &newer):
				return nil, MayUse(newer, apipath.Client(client))
			case storage.IsError(err):
				return nil, err
			case err == nil && entry != nil && entry.text(clientField) == client:
				users = append(users, name)
			}
		}
	}
	slices.Sort(users)
	return users, nil
}
