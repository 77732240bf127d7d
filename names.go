package tokenbroker

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// errUnknown means that a name stands for nothing.
var errUnknown = errors.New("no such role or credential")

// names holds what names stand for, so that a read need not ask storage. A
// credential's name stands for a role that takes nothing away.
type names struct {
	mu     sync.RWMutex
	writes uint64 // counts what may have made something void that is being loaded
	roles  map[string]*role
}

func (n *names) get(name string) (r *role, asOf uint64) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.roles[name], n.writes
}

// put keeps a role that was loaded, unless something was written since.
func (n *names) put(name string, r *role, asOf uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.writes == asOf {
		n.roles[name] = r
	}
}

// forget drops a name, to be loaded again.
func (n *names) forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writes++
	delete(n.roles, name)
}

// role is what a name stands for that somebody reads by.
func (b *backend) role(ctx context.Context, s logical.Storage, name string) (*role, error) {
	r, asOf := b.names.get(name)
	if r != nil {
		return r, nil
	}
	r, err := getRole(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		owner, err := ownerOf(ctx, s, name)
		if err != nil {
			return nil, err
		}
		if owner == "" {
			return nil, errUnknown
		}
		r = &role{Config: name}
	}
	b.names.put(name, r, asOf)
	return r, nil
}
