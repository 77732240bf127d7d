package tokenbroker

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// unstored holds refresh tokens that a vendor gave in place of those that operators were
// about to write, in writes that came to nothing. The ones that were given have expired by
// then: the same write again has to use the new ones.
type unstored struct {
	mu     sync.Mutex
	grants map[string]replacement // by the path of the credential
}

const (
	// maxUnstored is how many grants are in memory for writes to come. The oldest is dropped
	// first.
	maxUnstored = 100

	// unstoredAge is how long one waits for its write.
	unstoredAge = time.Hour
)

// A replacement is what a vendor gave for the refresh token of some fields. It is only for
// those: with others it might go to another vendor.
type replacement struct {
	fields [sha256.Size]byte
	grant  provider.Grant
	time   time.Time
}

// keep holds what the vendor gave for an entry that is not stored yet.
func (u *unstored) keep(path string, c *configEntry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.grants, path)
	u.expireLocked()
	if len(u.grants) >= maxUnstored {
		delete(u.grants, u.oldestLocked())
	}
	u.grants[path] = replacement{fields: vendorsOwn(c.Fields), grant: c.Verified.Grant, time: time.Now()}
}

// grant is what there is to exchange an entry with beside its own fields, if anything.
func (u *unstored) grant(path string, c *configEntry) provider.Grant {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.expireLocked()
	if r, held := u.grants[path]; held && r.fields == vendorsOwn(c.Fields) {
		return r.grant
	}
	return provider.Grant{}
}

// vendorsOwn is the SHA-256 of the fields that say who exchanges what, and where.
func vendorsOwn(fields map[string]any) [sha256.Size]byte {
	own := maps.Clone(fields)
	for name := range commonFields() {
		if name != "ca_cert" { // which says who is believed to be there
			delete(own, name)
		}
	}
	for name := range noteFields() {
		delete(own, name)
	}
	return sha256.Sum256(fmt.Appendf(nil, "%#v", own)) // in the order of their names
}

// drop forgets what was held for a path.
func (u *unstored) drop(path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.grants, path)
}

// expire drops the grants whose write has not come.
func (u *unstored) expire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.expireLocked()
}

func (u *unstored) expireLocked() {
	maps.DeleteFunc(u.grants, func(_ string, r replacement) bool { return time.Since(r.time) >= unstoredAge })
}

func (u *unstored) oldestLocked() string {
	return slices.MinFunc(slices.Collect(maps.Keys(u.grants)), func(a, b string) int { return u.grants[a].time.Compare(u.grants[b].time) })
}
