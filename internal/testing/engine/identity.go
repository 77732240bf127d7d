package engine

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"
)

// readerKey is the key of a reader's entity ID in a context.
type readerKey struct{}

// AsReader returns a context for requests with the Vault token of an entity.
func AsReader(ctx context.Context, entity string) context.Context {
	return context.WithValue(ctx, readerKey{}, entity)
}

// AddReader adds an entity with an alias at the mount "accessor" of an auth method.
func (e *Engine) AddReader(entity, alias string) {
	if e.Entities == nil {
		e.Entities = map[string]*logical.Entity{}
	}
	e.Entities[entity] = &logical.Entity{
		ID: entity, Name: "entity-of-" + entity,
		Aliases: []*logical.Alias{{MountAccessor: "accessor", MountType: "userpass", Name: alias}},
	}
}

// identities is a system view that knows the engine's Entities.
type identities struct {
	*logical.StaticSystemView
	engine *Engine
}

// EntityInfo implements logical.SystemView.
func (v identities) EntityInfo(id string) (*logical.Entity, error) { return v.engine.Entities[id], nil }
