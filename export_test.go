package tokenbroker

import (
	"reflect"

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
	inBroker := reflect.ValueOf(engine.broker).Elem().FieldByName("records").Len()
	inStore := reflect.ValueOf(engine.store).Elem().FieldByName("unstoredGrants").FieldByName("grants").Len()
	return inBroker + inStore + len(engine.names.roles)
}
