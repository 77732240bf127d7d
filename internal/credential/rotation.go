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
	// maxRotations is how many rotations are in memory. The oldest is dropped first.
	maxRotations = 100

	// rotationAge is how long a rotation waits for its write.
	rotationAge = time.Hour
)

// rotations are the refresh tokens that vendors gave in place of those in writes that were not
// stored. The ones that were given are not valid any more: the same write again must use the new
// ones.
type rotations struct {
	mu     sync.Mutex
	grants map[string]rotation // by the path of the credential
}

// A rotation is what a vendor gave for the refresh token of some fields. It is only for those:
// with others, it might go to another vendor.
type rotation struct {
	fields [sha256.Size]byte
	grant  provider.Grant
	time   time.Time
}

// keep keeps what the vendor gave for a credential that is not stored yet.
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

// get returns the grant to exchange a credential with beside its own fields; the zero grant if
// there is none.
func (r *rotations) get(c *stored) provider.Grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked()
	if kept, ok := r.grants[c.path()]; ok && kept.fields == exchangeFields(c.Entry) {
		return kept.grant
	}
	return provider.Grant{}
}

// drop forgets what was kept for a path.
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

// exchangeFields returns the SHA-256 of the fields that say who exchanges what, and where.
func exchangeFields(e *Entry) [sha256.Size]byte {
	fields := maps.Clone(e.Fields)
	for _, field := range append([]string{"default_ttl", "max_ttl"}, settingFields...) {
		delete(fields, field)
	}
	return sha256.Sum256(fmt.Appendf(nil, "%#v", fields)) // in the order of their names
}

// ExpireRotations drops the rotations whose write has not come.
func (st *Store) ExpireRotations() {
	st.rotations.mu.Lock()
	defer st.rotations.mu.Unlock()
	st.rotations.expireLocked()
}

// Rotations returns how many rotations are in memory.
func (st *Store) Rotations() int {
	st.rotations.mu.Lock()
	defer st.rotations.mu.Unlock()
	return len(st.rotations.grants)
}
