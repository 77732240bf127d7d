package credential

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// vendorsInUse are the vendors that may have credentials. Storage has an entry for each, since it would look at
// the names of all credentials to list their folders. The entry of a vendor is written before its first
// credential, and stays. It is safe for concurrent use.
type vendorsInUse struct {
	isRepaired atomic.Bool

	mu       sync.Mutex
	names    []string // sorted
	isLoaded bool
	changes  int
}

// ForgetVendorsInUse makes the next use load the vendors again, after another node has written one.
func (st *Store) ForgetVendorsInUse() { st.inUse.forget() }

func (v *vendorsInUse) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.isLoaded = false
	v.changes++
}

// add adds a vendor whose first credential may be written next. Its error is of type *storage.Error.
func (v *vendorsInUse) add(ctx context.Context, s logical.Storage, name string) error {
	names, err := v.list(ctx, s)
	if err != nil || slices.Contains(names, name) {
		return err
	}
	if err := storage.Retry(ctx, func() error { return storage.PutEmpty(ctx, s, storage.VendorInUseKey(name)) }); err != nil {
		return err
	}
	v.forget()
	return nil
}

// repair writes the entries of vendors that are missing, once after a start. Without its entry, the credentials of a
// vendor would not be found. Its error is of type *storage.Error.
func (v *vendorsInUse) repair(ctx context.Context, s logical.Storage) error {
	if v.isRepaired.Load() {
		return nil
	}
	vendors, err := storage.Folders(ctx, s, storage.CredentialsPrefix)
	if err != nil {
		return err
	}
	for _, vendor := range vendors {
		if err := v.add(ctx, s, vendor); err != nil {
			return err
		}
	}
	v.isRepaired.Store(true)
	return nil
}

// list returns the vendors, sorted. Its error is of type *storage.Error.
func (v *vendorsInUse) list(ctx context.Context, s logical.Storage) ([]string, error) {
	v.mu.Lock()
	names, isLoaded, changes := v.names, v.isLoaded, v.changes
	v.mu.Unlock()
	if isLoaded {
		return names, nil
	}
	names, err := storage.List(ctx, s, storage.VendorInUseKey(""))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changes == changes {
		v.names, v.isLoaded = names, true
	}
	return names, nil
}
