package credential

import (
	"context"
	"errors"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

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
	return c.stored != nil && slices.ContainsFunc(c.users, c.hasWorkedFor)
}

// hasWorkedFor reports whether the vendor has accepted the stored secrets from a user or its variants.
func (c *clientChange) hasWorkedFor(user string) bool {
	return c.accepted(user) == c.stored.Secrets || c.store.broker.VariantAccepted(user, c.stored.Secrets)
}

// accepted returns the version of the secrets that the vendor last accepted from a user; "" if unknown.
func (c *clientChange) accepted(user string) string {
	known := c.changes.Of(user).Known
	if known == nil {
		return ""
	}
	return known.Client.Accepted
}

// put stores the client, and has its users loaded again.
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
