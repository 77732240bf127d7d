package tokenbroker

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Route returns the definition that matches a path.
func Route(b logical.Backend, path string) *framework.Path { return b.(*backend).Route(path) }

// Paths returns the path definitions of an engine.
func Paths(b logical.Backend) []*framework.Path { return b.(*backend).Paths }

// DocumentedPaths returns the path definitions of an engine, with one for the credentials of each vendor
// whose exchange is code.
func DocumentedPaths(b logical.Backend) []*framework.Path {
	var paths []*framework.Path
	for _, path := range Paths(b) {
		paths = append(paths, path)
		if path.Fields["vendor"] != nil && path.Fields["verify"] != nil {
			for _, name := range sortedKeys(written) {
				paths = append(paths, describeValues([]*framework.Path{b.(*backend).vendorPath(written[name])})...)
			}
		}
	}
	return paths
}

// NamesInMemory returns the number of names for which an engine holds something in memory.
func NamesInMemory(b logical.Backend) int {
	engine := b.(*backend)
	return engine.broker.Len() + engine.store.UnstoredGrants() + len(engine.roles.roles)
}

// IsDirect reports whether an engine answers a request without the framework's routing.
func IsDirect(b logical.Backend, req *logical.Request) bool {
	read, _ := b.(*backend).directRead(req)
	return read != nil
}

// Routed sends a request by the framework's routing.
func Routed(ctx context.Context, b logical.Backend, req *logical.Request) (*logical.Response, error) {
	return b.(*backend).Backend.HandleRequest(ctx, req)
}
