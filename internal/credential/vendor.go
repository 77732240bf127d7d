package credential

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// A vendorEntry is an operator's definition of a vendor in storage.
type vendorEntry struct {
	storage.Format

	// Definition is the definition as the operator wrote it.
	Definition json.RawMessage `json:"definition"`
}

// Check implements storage.Entry.
func (e *vendorEntry) Check() error {
	if len(e.Definition) == 0 {
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
	if p := v.loaded[name]; p != nil {
		fieldSchemas.Delete(p)
	}
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
	d, err := definition.Parse(name, entry.Definition)
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

// inUse returns the vendors that have credentials, sorted.
func (st *Store) inUse(ctx context.Context, s logical.Storage) ([]string, error) {
	names, err := storage.Folders(ctx, s, storage.VendorsPrefix)
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
	vendors, err := st.inUse(ctx, s)
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
	vendors, err := st.inUse(ctx, s)
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
