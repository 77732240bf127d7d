package engine

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginidentityutil"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
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

// IdentityIssuer is the issuer of the server's identity tokens, and IdentitySubject the subject of those of the
// mount.
const (
	IdentityIssuer  = "https://vault.example.com/v1/identity/oidc/plugins"
	IdentitySubject = "plugin-identity:root:secret:tokenbroker_1a2b3c"
)

// IssueIdentityTokens makes the server one of the Enterprise edition, whose tokens the vendors can verify.
func (e *Engine) IssueIdentityTokens() {
	issuer := vendorsim.Issuer{URL: IdentityIssuer}
	e.Sim.AddIdentityProvider(IdentityIssuer, issuer.Fetch)
	e.IdentityToken = func(_ context.Context, r *pluginutil.IdentityTokenRequest) (string, error) {
		return issuer.Sign(IdentitySubject, r.Audience, r.TTL), nil
	}
}

// GenerateIdentityToken implements logical.SystemView.
func (v identities) GenerateIdentityToken(ctx context.Context, r *pluginutil.IdentityTokenRequest) (*pluginutil.IdentityTokenResponse, error) {
	if v.engine.IdentityToken == nil {
		return nil, pluginidentityutil.ErrPluginWorkloadIdentityUnsupported
	}
	token, err := v.engine.IdentityToken(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pluginutil.IdentityTokenResponse{Token: pluginutil.IdentityToken(token), TTL: min(r.TTL, 24*time.Hour)}, nil
}
