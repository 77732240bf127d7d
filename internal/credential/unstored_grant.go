package credential

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// maxUnstoredGrants is how many grants are cached. The oldest is dropped first.
	maxUnstoredGrants = 100

	// unstoredGrantAge is how long a grant is cached.
	unstoredGrantAge = time.Hour
)

// unstoredGrants caches, for an hour, the refresh tokens that vendors rotated during the verification
// of writes that were then not stored. The operator still has only the old one: the same write,
// sent again, is exchanged with the cached one. It is safe for concurrent use.
type unstoredGrants struct {
	mu     sync.Mutex
	grants map[string]unstoredGrant // by the storage key of the credential
}

// An unstoredGrant is the grant that replaced the refresh token of one write. It is used only for a
// write with the same fields, as others might send it to another vendor.
type unstoredGrant struct {
	fields [sha256.Size]byte // exchangeFields of the write
	grant  provider.Grant
	time   time.Time
}

// put caches the grant that a vendor returned for a credential that is not stored yet.
func (r *unstoredGrants) put(c *storedCredential, grant provider.Grant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.grants, c.storageKey())
	r.expireLocked()
	if len(r.grants) >= maxUnstoredGrants {
		delete(r.grants, r.oldestLocked())
	}
	r.grants[c.storageKey()] = unstoredGrant{fields: exchangeFields(c.Entry), grant: grant, time: time.Now()}
}

// get returns the cached grant of a credential with the same fields; the zero grant if there is
// none.
func (r *unstoredGrants) get(c *storedCredential) provider.Grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked()
	if cached, ok := r.grants[c.storageKey()]; ok && cached.fields == exchangeFields(c.Entry) {
		return cached.grant
	}
	return provider.Grant{}
}

// drop removes the grant of a credential.
func (r *unstoredGrants) drop(storageKey string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.grants, storageKey)
}

func (r *unstoredGrants) expireLocked() {
	maps.DeleteFunc(r.grants, func(_ string, cached unstoredGrant) bool { return time.Since(cached.time) >= unstoredGrantAge })
}

func (r *unstoredGrants) oldestLocked() string {
	return slices.MinFunc(slices.Collect(maps.Keys(r.grants)), func(a, b string) int { return r.grants[a].time.Compare(r.grants[b].time) })
}

// exchangeFields returns the SHA-256 of the fields that affect an exchange, and of where the secrets go, which
// may follow from a client.
func exchangeFields(e *Entry) [sha256.Size]byte {
	fields := maps.Clone(e.Fields)
	for _, field := range append([]string{"default_ttl", "max_ttl"}, fieldsWithoutExchange...) {
		delete(fields, field)
	}
	return sha256.Sum256(fmt.Appendf(nil, "%#v %q", fields, e.SentTo)) // maps print in sorted order
}

// ExpireUnstoredGrants drops the rotated refresh tokens of writes that were not repeated in time.
func (st *Store) ExpireUnstoredGrants() {
	st.unstoredGrants.mu.Lock()
	defer st.unstoredGrants.mu.Unlock()
	st.unstoredGrants.expireLocked()
}

// UnstoredGrants returns the number of rotated refresh tokens that are kept for a repeated write.
func (st *Store) UnstoredGrants() int {
	st.unstoredGrants.mu.Lock()
	defer st.unstoredGrants.mu.Unlock()
	return len(st.unstoredGrants.grants)
}
