package credential

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// A vendorEntry is an operator's definition of a vendor in storage.
type vendorEntry struct {
	storage.Format

	// Definition is the definition as the operator wrote it.
	Definition string `json:"definition"`
}

// Check implements storage.Entry.
func (e *vendorEntry) Check() error {
	if e.Definition == "" {
		return errors.New("vendor without a definition")
	}
	return nil
}

// ownVendors caches the operators' definitions by name, as each load of a credential needs that of its
// vendor. It is safe for concurrent use.
type ownVendors struct {
	mu     sync.Mutex
	loaded map[string]*definition.Provider
	writes uint64 // counts calls of forget, so that put does not store a stale definition
}

func (v *ownVendors) get(name string) (p *definition.Provider, asOf uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.loaded[name], v.writes
}

func (v *ownVendors) put(name string, p *definition.Provider, asOf uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writes != asOf {
		return
	}
	if v.loaded == nil {
		v.loaded = map[string]*definition.Provider{}
	}
	v.loaded[name] = p
}

func (v *ownVendors) forget(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writes++
	delete(v.loaded, name)
}

// ForgetVendor drops what is cached of a definition that another node has written.
func (st *Store) ForgetVendor(name string) {
	st.own.forget(name)
	st.broker.ForgetAll()
}

const repairVendor = "write the definition again"

// Vendor returns the vendor with a name: one of the engine's own, or one that an operator defined. It
// returns nil if there is none.
func (st *Store) Vendor(ctx context.Context, s logical.Storage, name string) (provider.Provider, error) {
	if p := st.options.BuiltIn(name); p != nil {
		return p, nil
	}
	p, err := st.OwnVendor(ctx, s, name)
	if err != nil || p == nil {
		return nil, err
	}
	return p, nil
}

// OwnVendor returns a vendor that an operator defined; nil if there is none.
func (st *Store) OwnVendor(ctx context.Context, s logical.Storage, name string) (*definition.Provider, error) {
	p, asOf := st.own.get(name)
	if p != nil {
		return p, nil
	}
	key := storage.VendorKey(name)
	entry, err := storage.Get[vendorEntry](ctx, s, key, repairVendor)
	if err != nil || entry == nil {
		return nil, err
	}
	d, err := definition.Parse(name, []byte(entry.Definition))
	if err != nil {
		return nil, storage.Damaged(key, repairVendor)
	}
	p = definition.NewProvider(d)
	st.own.put(name, p, asOf)
	return p, nil
}

// OwnVendors returns the names of the vendors that operators defined, sorted.
func (st *Store) OwnVendors(ctx context.Context, s logical.Storage) ([]string, error) {
	names, err := storage.List(ctx, s, storage.VendorKey(""))
	slices.Sort(names)
	return names, err
}

// vendorFor returns the vendor of stored credentials. A vendor that is not known any more is an error that
// says how to go on.
func (st *Store) vendorFor(ctx context.Context, s logical.Storage, name string) (provider.Provider, error) {
	p, err := st.Vendor(ctx, s, name)
	if err == nil && p == nil {
		err = provider.Errorf(provider.Invalid, "no vendor named %s; write its definition to %s, or delete its credentials", provider.Quote(name), apipath.Vendor(name))
	}
	return p, err
}

// VendorNames returns the vendor of each credential, by the credential's name.
func (st *Store) VendorNames(ctx context.Context, s logical.Storage) (map[string]string, error) {
	vendors, err := st.inUse.list(ctx, s)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, vendor := range vendors {
		own, err := st.NamesOf(ctx, s, vendor)
		if err != nil {
			return nil, err
		}
		for _, name := range own {
			names[name] = vendor
		}
	}
	return names, nil
}

// NamesOf returns the names of a vendor's credentials, sorted.
func (st *Store) NamesOf(ctx context.Context, s logical.Storage, vendor string) ([]string, error) {
	names, err := storage.List(ctx, s, storage.CredentialKey(vendor, ""))
	slices.Sort(names)
	return names, err
}

// VendorOf returns the vendor of the credential with this name; "" if there is none. It does not
// decode the entry, so that a damaged one can still be deleted.
func (st *Store) VendorOf(ctx context.Context, s logical.Storage, name string) (string, error) {
	vendors, err := st.inUse.list(ctx, s)
	if err != nil {
		return "", err
	}
	for _, vendor := range vendors {
		exists, err := storage.Exists(ctx, s, storage.CredentialKey(vendor, name))
		if err != nil || exists {
			return vendor, err
		}
	}
	return "", nil
}

// WriteVendor stores an operator's definition of a vendor. It refuses one with which a stored credential
// could not be opened, or would send a secret to another destination (guarantee 13). It returns
// warnings. Its errors are *provider.Error of kind Invalid, broker.ErrBusy and *storage.Error.
func (st *Store) WriteVendor(ctx context.Context, s logical.Storage, name string, text []byte) (warnings []string, err error) {
	d, err := definition.Parse(name, text)
	if err != nil {
		return nil, err
	}
	next := definition.NewProvider(d)
	ctx, end, users, err := st.beginVendor(ctx, s, name)
	if err != nil {
		return nil, err
	}
	defer end()
	// A definition that cannot be read any more has no say.
	if last, err := st.OwnVendor(ctx, s, name); err == nil && last != nil && len(users) > 0 && next.ShowsRefreshTokenOf(last) {
		return nil, provider.Errorf(provider.Invalid, "definition: with it, readers would see the refresh tokens of %s; define another vendor, or delete the credential first", apipath.Credential(name, users[0]))
	}
	for _, user := range users {
		if err := st.checkRedefined(ctx, s, next, user); err != nil {
			return nil, err
		}
	}
	clients, err := st.clientsOf(ctx, s, name)
	if err != nil {
		return nil, err
	}
	for _, client := range clients {
		if err := st.checkRedefinedClient(ctx, s, next, client); err != nil {
			return nil, err
		}
	}
	entry := &vendorEntry{Definition: string(text)}
	if err := storage.Retry(ctx, func() error { return storage.Put(ctx, s, storage.VendorKey(name), entry) }); err != nil {
		return nil, err
	}
	st.own.forget(name)
	for _, user := range users {
		st.broker.Forget(user)
	}
	return d.Warnings(), nil
}

// checkRedefined returns an error if a credential cannot have another definition of its vendor.
func (st *Store) checkRedefined(ctx context.Context, s logical.Storage, next provider.Provider, name string) error {
	own, err := st.getOwn(ctx, s, next, name)
	switch {
	case storage.IsDamaged(err):
		return provider.Errorf(provider.Invalid, "definition: %s has a field, or a value of a type, that this definition does not have; delete the credential, or keep the field", apipath.Credential(next.Name(), name))
	case err != nil:
		return err
	case own == nil: // deleted meanwhile
		return nil
	}
	for _, field := range own.Secrets {
		if !IsSecret(FieldSchemas(next)[field]) {
			return provider.Errorf(provider.Invalid, "definition: /fields/%s: must stay a secret, as %s has it as one; give a field that is not a secret another name", field, own.path())
		}
	}
	if err := own.loadKey(ctx, s); err != nil {
		return err
	}
	opened, err := st.open(own)
	if err != nil {
		return provider.Errorf(provider.Invalid, "definition: with it, %s is refused: %s", own.path(), err)
	}
	if added := Destinations(opened.SentTo).beyond(own.SentTo); len(added) > 0 {
		return provider.Errorf(provider.Invalid, "definition: with it, the stored secrets of %s would be sent to a new destination: %.300s; define another vendor, or delete the credential first", own.path(), added)
	}
	return nil
}

// DeleteVendor deletes an operator's definition of a vendor that has no credentials. Its errors are those
// of WriteVendor.
func (st *Store) DeleteVendor(ctx context.Context, s logical.Storage, name string) error {
	ctx, end, users, err := st.beginVendor(ctx, s, name)
	if err != nil {
		return err
	}
	defer end()
	if len(users) > 0 {
		return provider.Errorf(provider.Invalid, "vendor: %s uses the definition; delete its credentials first (%d in all)", apipath.Credential(name, users[0]), len(users))
	}
	clients, err := st.clientsOf(ctx, s, name)
	if err != nil {
		return err
	}
	if len(clients) > 0 {
		return provider.Errorf(provider.Invalid, "vendor: %s uses the definition; delete it first", apipath.Client(clients[0]))
	}
	if err := storage.Delete(ctx, s, storage.VendorKey(name)); err != nil {
		return err
	}
	st.own.forget(name)
	return nil
}

// maxBegins is how often a change of a vendor begins again because credentials were added meanwhile.
const maxBegins = 5

// beginVendor begins a change of a vendor: nothing else changes its definition or its credentials until
// end. It returns the names of these. Writes of credentials lock the credential first and the
// definition last, and so does this.
func (st *Store) beginVendor(ctx context.Context, s logical.Storage, name string) (next context.Context, end func(), users []string, err error) {
	for range maxBegins {
		if users, err = st.NamesOf(ctx, s, name); err != nil {
			return nil, nil, nil, err
		}
		next, changes, err := st.broker.BeginWrites(ctx, s, users...)
		if err != nil {
			return nil, nil, nil, err
		}
		unlock, err := st.broker.Lock(next, storage.VendorKey(name))
		if err != nil {
			changes.End()
			return nil, nil, nil, err
		}
		end := func() { unlock(); changes.End() }
		now, err := st.NamesOf(next, s, name)
		if err == nil && !slices.ContainsFunc(now, func(one string) bool { return !slices.Contains(users, one) }) {
			return next, end, now, nil
		}
		end()
		if err != nil {
			return nil, nil, nil, err
		}
	}
	return nil, nil, nil, broker.ErrBusy
}

// lockDefinition locks the definition with which a credential was verified, until unlock is called. It
// returns an error if that is not the stored one any more. A vendor of the engine has nothing to lock.
func (st *Store) lockDefinition(ctx context.Context, s logical.Storage, p provider.Provider) (unlock func(), err error) {
	verified, isDefined := p.(*definition.Provider)
	if !isDefined || st.options.BuiltIn(p.Name()) != nil {
		return func() {}, nil
	}
	if unlock, err = st.broker.Lock(ctx, storage.VendorKey(p.Name())); err != nil {
		return nil, err
	}
	current, err := st.OwnVendor(ctx, s, p.Name())
	if err == nil && (current == nil || !bytes.Equal(current.Text(), verified.Text())) {
		err = provider.Errorf(provider.Invalid, "%s was changed while the credential was verified, and nothing was stored; send the write again", apipath.Vendor(p.Name()))
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
