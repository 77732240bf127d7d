package tokenbroker

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
)

const rolesPrefix = "roles/"

func (b *backend) pathRoles() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.rolesWrite,
		Summary:                     "Write a role; on an existing one, change the fields that are named.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "write", OperationSuffix: "role"},
	}
	patch := *write
	patch.Summary = "Change some fields of a role; null clears one."
	patch.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "role"}
	return []*framework.Path{
		{
			Pattern:      rolesPrefix + "?$",
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
			HelpDescription: "Each one is read from creds/<name> or token/<name>.",
		},
		{
			Pattern:      rolesPrefix + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Role"},
			Fields:       roleFields(),
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
					Summary:                     "Delete a role. Leases that were read by it run on.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "role"},
				},
			},
			ExistenceCheck:  b.rolesExists,
			HelpSynopsis:    "Write a role: a narrower view of a credential, with a name and policies of its own.",
			HelpDescription: rolesHelpDescription,
		},
	}
}

func roleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeNameString,
			Description:  "The role's name, which creds/<name> and token/<name> are read by. It must not be a credential's.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"config": {
			Type:         framework.TypeString,
			Description:  "The name of the credential, without its provider.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Credential"},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes of the role's tokens, some of the credential's own. Default: all of these. A vendor must be able to narrow them: a Kensho refresh token cannot.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "The longest lease of creds/<name>, and the longest ttl of token/<name>. Default: as long as the token is good.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "TTL"},
		},
		"dedicated": {
			Type:         framework.TypeBool,
			Description:  "Whether each read of creds/<name> is an exchange of its own, and the end of its lease revokes the token at the vendor. Needs a vendor with a revocation endpoint.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Dedicated"},
		},
		"max_leases": {
			Type:         framework.TypeInt,
			Description:  "How many dedicated tokens may be leased at once. Default: no limit.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum leases"},
		},
		"max_exchanges": {
			Type:         framework.TypeInt,
			Description:  "How many dedicated tokens may be exchanged within the lifetime of one. Default: four times max_leases and at least 10, or 100 without max_leases.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum exchanges"},
		},
		"forget_leases": {
			Type:         framework.TypeBool,
			Description:  "Whether the tokens leased so far no longer count against max_leases, such as after vault lease revoke -force. It is not stored itself.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Forget leases"},
		},
		"min_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a token must be good for at least when it is read, or it is exchanged for a fresher one, if that can help.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Minimum TTL"},
		},
	}
}

// readableRole are the fields of a role that is read.
func readableRole() map[string]*framework.FieldSchema {
	fields := roleFields()
	maps.DeleteFunc(fields, func(field string, _ *framework.FieldSchema) bool { return !isStored(field) })
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
	return logical.ListResponse(names), nil
}

func (b *backend) rolesRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := getRole(ctx, req.Storage, d.Get("name").(string))
	if r == nil || err != nil {
		return nil, err
	}
	scope := r.Scope
	if scope == nil {
		scope = []string{}
	}
	return &logical.Response{Data: map[string]any{
		"config":  r.Config,
		"scope":   scope,
		"ttl":     int64(r.TTL),
		"min_ttl": int64(r.MinTTL),

		"dedicated":     r.Dedicated,
		"max_leases":    r.MaxLeases,
		"max_exchanges": r.MaxExchanges,
	}}, nil
}

func (b *backend) rolesWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	next, err := amendRole(ctx, req, d)
	if err != nil {
		return failure(name, err)
	}
	err = b.putRole(ctx, req, d, next.Config)
	b.names.forget(name)
	if err != nil {
		return failure(name, err)
	}
	return nil, nil
}

// putRole stores a role of a credential. No other request gives the role's name to a credential
// meanwhile, or deletes its credential.
func (b *backend) putRole(ctx context.Context, req *logical.Request, d *framework.FieldData, config string) error {
	name := d.Get("name").(string)
	unlock, err := b.broker.Lock(ctx, name, config)
	if err != nil {
		return err
	}
	defer unlock()
	next, err := amendRole(ctx, req, d)
	switch {
	case err != nil:
		return err
	case next.Config != config: // another request has written the role
		return broker.ErrBusy
	}
	if err := b.checkRole(ctx, req.Storage, name, next); err != nil {
		return err
	}
	return storage.Put(ctx, req.Storage, storage.RoleKey(name), next)
}

func (b *backend) rolesDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	err := b.deleteRole(ctx, req.Storage, name)
	b.names.forget(name)
	if err != nil {
		return failure(name, err)
	}
	return nil, nil
}

// deleteRole deletes a role. No request that has read it writes it again meanwhile.
func (b *backend) deleteRole(ctx context.Context, s logical.Storage, name string) error {
	unlock, err := b.broker.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return storage.Delete(ctx, s, storage.RoleKey(name))
}

const rolesHelpDescription = `
A role gives readers one name, and policies one path, for some of what a credential
can do: some of its scopes, leases that are shorter, or tokens that are good for at
least so long. It has no secret, but whoever may write roles and read one can have
tokens of any credential of the mount: pin config and scope in the policies of others.

Roles of one credential that have the same scope share a token. A role and a
credential cannot have the same name, and a credential cannot be deleted while roles
use it.
`
