package tokenbroker

import (
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
)

// schemas are what paths take and answer, by pattern: the same in every mount, never
// changed, and most of what an idle mount would take of memory.
var schemas sync.Map

// sharing has the paths of a mount take and answer what those of the process's other
// mounts do.
func sharing(paths []*framework.Path) []*framework.Path {
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

// shared is the value of the first mount that had one under the key.
func shared[T any](key string, own T) T {
	first, _ := schemas.LoadOrStore(key, own)
	return first.(T)
}
