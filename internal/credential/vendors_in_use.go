package credential

import (
	"context"
	"slices"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// vendorsInUse are the vendors that may have credentials, as storage looks at all names to list them. They are listed once; then a
// vendor is added before its credential is written, and all are listed again after another node has written one. A vendor
// whose last credential is deleted stays. It is safe for concurrent use.
type vendorsInUse struct {
	mu         sync.Mutex
	names      map[string]bool
	isComplete bool
	changes    int // by other nodes
}

// ForgetVendorsInUse makes the next use list the vendors again, after another node has written a credential.
func (st *Store) ForgetVendorsInUse() { st.inUse.changed() }

// add adds a vendor whose first credential may be written now.
func (v *vendorsInUse) add(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addLocked(name)
}

func (v *vendorsInUse) addLocked(names ...string) {
	if v.names == nil {
		v.names = map[string]bool{}
	}
	for _, name := range names {
		v.names[name] = true
	}
}

// changed notes that another node may have written the first credential of a vendor.
func (v *vendorsInUse) changed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.isComplete = false
	v.changes++
}

// list returns the vendors, sorted. Its error is of type *storage.Error.
func (v *vendorsInUse) list(ctx context.Context, s logical.Storage) ([]string, error) {
	v.mu.Lock()
	isComplete, changes := v.isComplete, v.changes
	v.mu.Unlock()
	if !isComplete {
		listed, err := storage.Folders(ctx, s, storage.VendorsPrefix)
		if err != nil {
			return nil, err
		}
		v.mu.Lock()
		v.addLocked(listed...)
		v.isComplete = v.changes == changes
		v.mu.Unlock()
	}
	return v.last(), nil
}

// last returns the vendors that are known without storage, sorted.
func (v *vendorsInUse) last() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	names := make([]string, 0, len(v.names))
	for name := range v.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
