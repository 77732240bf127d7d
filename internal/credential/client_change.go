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

// A clientChange is a change of a client in progress. Until its end, nothing else changes the client, its key
// pairs or the definition of its vendor, and no credential is stored that was verified with another state of
// it. It locks no credential: those that use the client are loaded again after it, and what an exchange that
// is in flight yields is void by its version.
type clientChange struct {
	ctx     context.Context
	store   *Store
	storage logical.Storage
	name    string
	exists  bool
	stored  *Client           // nil if there is none, or if it is damaged
	vendor  provider.Provider // of stored, or of the write that creates it; nil if unknown
	unlocks []func()
}

func (c *clientChange) end() {
	for _, unlock := range slices.Backward(c.unlocks) {
		unlock()
	}
}

// lock locks keys until the end of the change.
func (c *clientChange) lock(keys ...string) error {
	unlock, err := c.store.broker.Lock(c.ctx, keys...)
	if err == nil {
		c.unlocks = append(c.unlocks, unlock)
	}
	return err
}

// pathOf returns the path of a user, as operators write it.
func (c *clientChange) pathOf(user string) string {
	if c.stored == nil {
		return apipath.Status(user)
	}
	return apipath.Credential(c.stored.Vendor, user)
}

// users returns the names of the credentials in storage that use the client, sorted.
func (c *clientChange) users() ([]string, error) {
	return c.store.usersOfClient(c.ctx, c.storage, c.name, c.stored)
}

// put stores the client, and has its users loaded again if that concerns them.
func (c *clientChange) put(next *Client) error {
	err := storage.Retry(c.ctx, func() error { return storage.Put(c.ctx, c.storage, storage.ClientKey(c.name), next) })
	isVoid := c.stored == nil || c.stored.Settings != next.Settings
	if isVoid || c.stored.Secrets != next.Secrets || len(c.stored.Formers) != len(next.Formers) || c.stored.Rotation != next.Rotation {
		c.store.broker.UnloadUsers(c.name, isVoid) // also after an error, as the write may have succeeded
	}
	return err
}

// beginClient begins a change of a client: of one with the given vendor if it does not exist yet, and with
// the given key pairs besides those that it has. It locks the key pairs, then the client and its vendor, in
// the order of writes of credentials. Its errors are those of broker.Lock, and of type *storage.Error and
// *storage.NewerFormatError.
func (st *Store) beginClient(ctx context.Context, s logical.Storage, name, vendor string, keypairs ...string) (*clientChange, error) {
	c := &clientChange{ctx: ctx, store: st, storage: s, name: name}
	if err := c.begin(vendor, keypairs); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func (c *clientChange) begin(vendor string, keypairs []string) error {
	if err := c.read(); err != nil {
		return err
	}
	before := c.keypairs(keypairs)
	if len(before) > 0 {
		if err := c.lock(before...); err != nil {
			return err
		}
	}
	if c.stored != nil && vendor == "" {
		vendor = c.stored.Vendor
	}
	keys := []string{storage.ClientKey(c.name)}
	if vendor != "" && c.store.options.BuiltIn(vendor) == nil {
		keys = append(keys, storage.VendorKey(vendor))
	}
	if err := c.lock(keys...); err != nil {
		return err
	}
	if err := c.read(); err != nil {
		return err
	}
	if !slices.Equal(c.keypairs(keypairs), before) { // another request has changed the client
		return broker.ErrBusy
	}
	if vendor == "" {
		return nil
	}
	var err error
	c.vendor, err = c.store.Vendor(c.ctx, c.storage, vendor)
	return err
}

// keypairs returns the storage keys of the given key pairs and that of the client, sorted.
func (c *clientChange) keypairs(given []string) []string {
	if c.stored != nil {
		given = append(slices.Clone(given), keypairOf("", c.stored.Fields))
	}
	var keys []string
	for _, name := range given {
		if name != "" {
			keys = append(keys, storage.KeypairKey(name))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
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

// usersOfClient returns the names of the credentials that use a client, sorted. They are of the client's
// vendor, or of any if client is nil, as it is damaged. A damaged credential uses none.
func (st *Store) usersOfClient(ctx context.Context, s logical.Storage, name string, client *Client) ([]string, error) {
	vendors, err := st.inUse.list(ctx, s)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, vendor := range vendors {
		if client != nil && vendor != client.Vendor {
			continue
		}
		names, err := st.NamesOf(ctx, s, vendor)
		if err != nil {
			return nil, err
		}
		for _, user := range names {
			entry, err := storage.Get[Entry](ctx, s, storage.CredentialKey(vendor, user), repairCredential)
			var newer *storage.NewerFormatError
			switch {
			case errors.As(err, &newer):
				return nil, MayUse(newer, apipath.Client(name))
			case storage.IsError(err):
				return nil, err
			case err == nil && entry != nil && entry.text(clientField) == name:
				users = append(users, user)
			}
		}
	}
	slices.Sort(users)
	return users, nil
}
