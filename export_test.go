package tokenbroker

import (
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Route is the definition of a path.
func Route(b logical.Backend, path string) *framework.Path { return b.(*backend).Route(path) }

// Paths are an engine's path definitions.
func Paths(b logical.Backend) []*framework.Path { return b.(*backend).Paths }
