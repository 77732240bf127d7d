package tokenbroker

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathRoles() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.rolesWrite,
		Summary:                     "Write a role, or change the given fields of an existing one.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "write", OperationSuffix: "role"},
	}
	patch := *write
	patch.Summary = "Change the given fields of a role; null clears a field."
	patch.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "role"}
	return []*framework.Path{
		{
			Pattern:      "roles/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Role"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.rolesList,
					Summary:                     "List the roles.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "roles"},
				},
			},
			HelpSynopsis:    "List the roles.",
			HelpDescription: withExample("key_info holds the config (the credential), the scope and dedicated of each role. Read a token of a role at creds/<name> or token/<name>.", "vault list -detailed kensho/roles"),
		},
		{
			Pattern:             "roles/" + apipath.NamePattern("name"),
			DisplayAttrs:        &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Role"},
			Fields:              roleFields(),
			TakesArbitraryInput: true, // the fields of the credential's vendor that narrow its tokens
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.PatchOperation:  &patch,
				logical.ReadOperation: &framework.PathOperation{
					Callback:                    b.rolesRead,
					Summary:                     "Read a role.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: readableRole()}},
					},
					DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "role"},
				},
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.rolesDelete,
					Summary:                     "Delete a role. Its leases stay valid.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "role"},
				},
			},
			ExistenceCheck:  b.rolesExists,
			HelpSynopsis:    "Write a role: a narrower view of a credential, with its own name and policies.",
			HelpDescription: withExample(rolesHelpDescription, "vault write kensho/roles/web config=prod ttl=30m", "vault read kensho/roles/web", "vault patch kensho/roles/web ttl=1h"),
		},
	}
}

func roleFields() map[string]*framework.FieldSchema {
	return addBoundFields(map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeString,
			Description:  "Name of the role. Tokens are read at creds/<name> or token/<name>. It must differ from the names of all credentials.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"config": {
			Type:         framework.TypeString,
			Description:  "Name of the credential, without its vendor.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Credential"},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Scopes of the role's tokens, a subset of the credential's. The vendor must support narrower scopes; a Kensho refresh token does not. Default: all scopes of the credential.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"allowed_params": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Fields that a reader may set where neither the role nor the credential does, such as audience. Where one does, a reader may set a part of it without this.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed parameters"},
		},
		"ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Maximum lease of creds/<name> and maximum ttl of token/<name>. Default: limited only by the token.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "TTL"},
		},
		"dedicated": {
			Type:         framework.TypeBool,
			Description:  "Whether each read of creds/<name> gets its own token, which the engine revokes at the vendor when the lease ends, if the vendor has a revocation endpoint. Not for a credential with a refresh token, or whose exchange invalidates the previous token.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Dedicated"},
		},
		"max_leases": {
			Type:         framework.TypeInt,
			Description:  "Maximum number of dedicated tokens leased at once. Needs dedicated=true. Default: no limit.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum leases"},
		},
		"max_exchanges": {
			Type:         framework.TypeInt,
			Description:  "Maximum number of exchanges within the lifetime of one dedicated token. Needs dedicated=true. Default: four times max_leases, at least 10; 100 without max_leases.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum exchanges"},
		},
		"forget_leases": {
			Type:         framework.TypeBool,
			Description:  "Whether to stop counting the current leases against max_leases, for example after vault lease revoke -force. Needs dedicated=true. Not stored.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Forget leases"},
		},
		"min_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Minimum remaining lifetime of a token when it is read. If the cached token expires sooner, the engine exchanges it for a newer one where possible. Default: none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Minimum TTL"},
		},
	})
}

// readableRole returns the response fields of a role.
func readableRole() map[string]*framework.FieldSchema {
	fields := roleFields()
	maps.DeleteFunc(fields, func(field string, _ *framework.FieldSchema) bool { return !isStored(field) })
	for field, schema := range fields {
		fields[field] = described(schema, "The stored value; 0, false or an empty list if there is none.")
	}
	return fields
}

func (b *backend) rolesExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	return storage.Exists(ctx, req.Storage, storage.RoleKey(d.Get("name").(string)))
}

func (b *backend) rolesList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := storage.List(ctx, req.Storage, storage.RoleKey(""))
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, name := range names {
		switch r, err := getRole(ctx, req.Storage, name); {
		case storage.IsError(err):
			return nil, err
		case err != nil || r == nil: // roles/<name> has the error
		default:
			info[name] = map[string]any{"config": r.Config, "scope": provider.JoinScope(r.Scope), "dedicated": r.Dedicated}
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

func (b *backend) rolesRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := getRole(ctx, req.Storage, d.Get("name").(string))
	if r == nil || err != nil {
		return nil, err
	}
	data := map[string]any{
		"config":  r.Config,
		"scope":   append([]string{}, r.Scope...),
		"ttl":     int64(r.TTL),
		"min_ttl": int64(r.MinTTL),

		"dedicated":     r.Dedicated,
		"max_leases":    r.MaxLeases,
		"max_exchanges": r.MaxExchanges,

		"allowed_params": append([]string{}, r.AllowedParams...),

		"bound_issuer":    r.Bounds.Issuer,
		"bound_audiences": append([]string{}, r.Bounds.Audiences...),
		"bound_jwks_url":  r.Bounds.KeysURL,
	}
	for field, value := range r.Fields {
		data[field] = value
		if _, isList := value.([]any); isList {
			data[field] = textsOf(value)
		}
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) rolesWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	next, err := b.updatedRole(ctx, req, d)
	if err != nil {
		return failure(name, err)
	}
	warnings, err := b.putRole(ctx, req, d, next.Config)
	b.roles.forget(name)
	switch {
	case err != nil:
		return failure(name, err)
	case len(warnings) > 0:
		return &logical.Response{Warnings: warnings}, nil
	}
	return nil, nil
}

// putRole stores a role, and returns warnings about it. It locks the role's name and its credential, so that no other request
// creates a credential with this name or deletes the role's credential in between.
func (b *backend) putRole(ctx context.Context, req *logical.Request, d *framework.FieldData, config string) (warnings []string, err error) {
	name := d.Get("name").(string)
	unlock, err := b.broker.Lock(ctx, name, config)
	if err != nil {
		return nil, err
	}
	defer unlock()
	next, err := b.updatedRole(ctx, req, d)
	switch {
	case err != nil:
		return nil, err
	case next.Config != config: // another request has changed the role, so the wrong credential is locked
		return nil, broker.ErrBusy
	}
	if warnings, err = b.checkRole(ctx, req.Storage, name, next); err != nil {
		return nil, err
	}
	return warnings, storage.Put(ctx, req.Storage, storage.RoleKey(name), next)
}

func (b *backend) rolesDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	err := b.deleteRole(ctx, req.Storage, name)
	b.roles.forget(name)
	if err != nil {
		return failure(name, err)
	}
	return nil, nil
}

// deleteRole deletes a role. It takes the role's lock, so that no concurrent write restores the role.
func (b *backend) deleteRole(ctx context.Context, s logical.Storage, name string) error {
	unlock, err := b.broker.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return storage.Delete(ctx, s, storage.RoleKey(name))
}

const rolesHelpDescription = `
A role is a name, and so a path for policies, that gives readers part of what a
credential can do: fewer scopes, shorter leases, or tokens with a minimum remaining
lifetime. A role holds no secret. However, a client that may write roles and read their
tokens can get a token of any credential of the mount. Restrict config and scope in the
policies of such clients.

Roles of the same credential with the same scope share a token. A role and a credential
cannot have the same name, and a credential cannot be deleted while roles use it.
`
