package tokenbroker

import (
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
)

// schemas caches the fields and responses of paths by pattern, for the whole process. They are the
// same in every mount, never change, and would otherwise account for most of the memory of an idle
// mount. credential.FieldSchemas has a cache of its own, as it is used without paths.
var schemas sync.Map

// shareSchemas replaces the fields and responses of paths by those of the first mount in the process.
func shareSchemas(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		path.Fields = shared(path.Pattern, path.Fields)
		for operation, handler := range path.Operations {
			if h, ok := handler.(*framework.PathOperation); ok {
				h.Responses = shared(path.Pattern+" "+string(operation), h.Responses)
			}
		}
	}
	return paths
}

// described returns a copy of a schema with another description. The schemas of providers are
// shared, and so must not change.
func described(schema *framework.FieldSchema, description string) *framework.FieldSchema {
	described := *schema
	described.Description = description
	return &described
}

// shared returns the first value that was passed for the key.
func shared[T any](key string, own T) T {
	first, _ := schemas.LoadOrStore(key, own)
	return first.(T)
}
