package tokenbroker

import (
	"maps"
	"reflect"
	"sync"

	"vault-plugin-secrets-tokenbroker/provider"
)

// unstored holds refresh tokens that a vendor gave in place of those that operators were
// about to write, in writes that came to nothing. The ones that were given are dead by
// then: the same write again has to use what took their place.
type unstored struct {
	mu     sync.Mutex
	grants map[string]replacement // by the path of the credential
}

// replacement is what a vendor gave for the refresh token of some fields. It is for those
// alone: with others it might go to another vendor.
type replacement struct {
	fields map[string]any
	grant  provider.Grant
}

// keep holds what the vendor gave for an entry that is not stored yet.
func (u *unstored) keep(path string, c *configEntry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.grants[path] = replacement{fields: vendorsOwn(c.Fields), grant: c.Verified.Grant}
}

// grant is what there is to exchange an entry with beside its own fields, if anything.
func (u *unstored) grant(path string, c *configEntry) provider.Grant {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r, held := u.grants[path]; held && reflect.DeepEqual(r.fields, vendorsOwn(c.Fields)) {
		return r.grant
	}
	return provider.Grant{}
}

// vendorsOwn are the fields that say who exchanges what, and where.
func vendorsOwn(fields map[string]any) map[string]any {
	own := maps.Clone(fields)
	for name := range commonFields() {
		if name != "ca_cert" { // which says who is believed to be there
			delete(own, name)
		}
	}
	for name := range noteFields() {
		delete(own, name)
	}
	return own
}

// drop forgets what was held for a path.
func (u *unstored) drop(path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.grants, path)
}
