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
	// maxRotations is the maximum number of rotations in memory. The oldest is dropped first.
	maxRotations = 100

	// rotationAge is how long a rotation is kept.
	rotationAge = time.Hour
)

// rotations holds refresh tokens that vendors rotated while verifying writes that were then not
// stored. The refresh token in such a write is no longer valid, so the same write, sent again, must
// use the rotated one. It is safe for concurrent use.
type rotations struct {
	mu     sync.Mutex
	grants map[string]rotation // by the path of the credential
}

// A rotation is the grant that replaced the refresh token of one write. It is used only for a write
// with the same fields, as others might send it to another vendor.
type rotation struct {
	fields [sha256.Size]byte // exchangeFields of the write
	grant  provider.Grant
	time   time.Time
}

// keep stores the grant that a vendor returned for a credential that is not stored yet.
func (r *rotations) keep(c *stored, grant provider.Grant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.grants, c.path())
	r.expireLocked()
	if len(r.grants) >= maxRotations {
		delete(r.grants, r.oldestLocked())
	}
	r.grants[c.path()] = rotation{fields: exchangeFields(c.Entry), grant: grant, time: time.Now()}
}

// get returns the grant kept for a credential with the same fields; the zero grant if there is
// none.
func (r *rotations) get(c *stored) provider.Grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked()
	if kept, ok := r.grants[c.path()]; ok && kept.fields == exchangeFields(c.Entry) {
		return kept.grant
	}
	return provider.Grant{}
}

// drop removes the rotation of a path.
func (r *rotations) drop(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.grants, path)
}

func (r *rotations) expireLocked() {
	maps.DeleteFunc(r.grants, func(_ string, kept rotation) bool { return time.Since(kept.time) >= rotationAge })
}

func (r *rotations) oldestLocked() string {
	return slices.MinFunc(slices.Collect(maps.Keys(r.grants)), func(a, b string) int { return r.grants[a].time.Compare(r.grants[b].time) })
}

// exchangeFields returns the SHA-256 of the fields that affect an exchange.
func exchangeFields(e *Entry) [sha256.Size]byte {
	fields := maps.Clone(e.Fields)
	for _, field := range append([]string{"default_ttl", "max_ttl"}, settingFields...) {
		delete(fields, field)
	}
	return sha256.Sum256(fmt.Appendf(nil, "%#v", fields)) // maps print in sorted order
}

// ExpireRotations drops the rotations older than an hour.
func (st *Store) ExpireRotations() {
	st.rotations.mu.Lock()
	defer st.rotations.mu.Unlock()
	st.rotations.expireLocked()
}

// Rotations returns the number of rotations in memory.
func (st *Store) Rotations() int {
	st.rotations.mu.Lock()
	defer st.rotations.mu.Unlock()
	return len(st.rotations.grants)
}
