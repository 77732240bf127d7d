package tokenbroker

import (
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Route returns the definition that matches a path.
func Route(b logical.Backend, path string) *framework.Path { return b.(*backend).Route(path) }

// Paths returns the path definitions of an engine.
func Paths(b logical.Backend) []*framework.Path { return b.(*backend).Paths }

// NamesInMemory returns the number of names for which an engine holds something in memory.
func NamesInMemory(b logical.Backend) int {
	engine := b.(*backend)
	return engine.broker.Len() + engine.store.UnstoredGrants() + len(engine.roles.roles)
}
