package tokenbroker

import (
	"reflect"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Route is the definition of a path.
func Route(b logical.Backend, path string) *framework.Path { return b.(*backend).Route(path) }

// Paths are an engine's path definitions.
func Paths(b logical.Backend) []*framework.Path { return b.(*backend).Paths }

// NamesInMemory is how many names an engine has something in memory for.
func NamesInMemory(b logical.Backend) int {
	engine := b.(*backend)
	return reflect.ValueOf(engine.broker).Elem().FieldByName("entries").Len() + len(engine.names.roles) + engine.store.Rotations()
}
