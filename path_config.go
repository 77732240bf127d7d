package tokenbroker

import (
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathConfig() []*framework.Path {
	paths := []*framework.Path{{
		Pattern:      "config/?$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Credential"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback:                    b.configList(providers),
				Summary:                     "List the credentials of all vendors.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "credentials"},
			},
		},
		HelpSynopsis:    "List the credentials of all vendors.",
		HelpDescription: withExample("key_info holds the vendor in the path of each name. A name belongs to one vendor.", "vault list -detailed kensho/config"),
	}}
	for _, p := range providers {
		paths = append(paths, b.pathConfigList(p), b.pathConfigCredential(p))
	}
	return paths
}

func (b *backend) pathConfigList(p provider.Provider) *framework.Path {
	return &framework.Path{
		Pattern:      "config/" + p.Name() + "/?$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback:                    b.configList([]provider.Provider{p}),
				Summary:                     "List the credentials of " + p.Name() + ".",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: p.Name() + "-credentials"},
			},
		},
		HelpSynopsis:    "List the credentials of " + p.Name() + ".",
		HelpDescription: withExample("Read a token of a credential at creds/<name> or token/<name>.", fmt.Sprintf("vault list %s/config/%s", p.Name(), p.Name())),
	}
}

// credentialFields returns the fields of the path of a vendor's credentials.
func credentialFields(p provider.Provider) map[string]*framework.FieldSchema {
	fields := maps.Clone(credential.FieldSchemas(p))
	fields["name"] = &framework.FieldSchema{
		Type:         framework.TypeNameString,
		Description:  "Name of the credential. Tokens are read at creds/<name>.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
	}
	fields["verify"] = &framework.FieldSchema{
		Type:         framework.TypeBool,
		Description:  "Whether to verify the credential by an exchange before it is stored. Not stored.",
		Default:      true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Verify"},
	}
	return fields
}

// readableFields returns the fields that a read of a credential returns.
func readableFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	readable := map[string]*framework.FieldSchema{
		"secrets_set": {
			Type:        framework.TypeStringSlice,
			Description: "Names of the secret fields that are set.",
			Required:    true,
		},
		"resolved_urls": {
			Type:        framework.TypeStringSlice,
			Description: "URLs that receive the credential's secrets, as they follow from the fields and the preset. An issuer stands for the endpoints that its metadata lists. Omitted if the secrets are never sent.",
		},
		"resolved_scope": {
			Type:        framework.TypeStringSlice,
			Description: "Scope that the engine requests, as it follows from the fields and the preset. Omitted if the vendor decides it.",
		},
	}
	for name, schema := range fields {
		switch {
		case credential.IsSecret(schema) || !isStored(name):
		case name == "keepalive_interval":
			readable[name] = described(schema, "The interval in effect.")
		case schema.Default != nil:
			readable[name] = described(schema, "The stored value, or else the default.")
		default:
			readable[name] = described(schema, "The stored value. Absent if none is stored.")
		}
	}
	return readable
}

func (b *backend) pathConfigCredential(p provider.Provider) *framework.Path {
	fields := credentialFields(p)
	write := &framework.PathOperation{
		Callback:                    b.configWrite(p),
		Summary:                     "Store a credential, or change the given fields of an existing one.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "configure", OperationSuffix: p.Name() + "-credential"},
	}
	patch := *write
	patch.Summary = "Change the given fields of a credential; null clears a field."
	patch.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: p.Name() + "-credential"}
	return &framework.Path{
		Pattern:      "config/" + p.Name() + "/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Credential"},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation:  &patch,
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.configRead(p),
				Summary:                     "Read a credential's settings, without its secrets.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: readableFields(fields)}},
				},
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: p.Name() + "-credential"},
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                    b.configDelete(p),
				Summary:                     "Delete a credential and its cached tokens.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: p.Name() + "-credential"},
			},
		},
		ExistenceCheck:  b.configExists(p),
		HelpSynopsis:    "Store a credential of " + p.Summary() + ".",
		HelpDescription: withExample(configHelp(fields), fmt.Sprintf("vault write %s/config/%s/prod %s", p.Name(), p.Name(), p.Example()), fmt.Sprintf("vault read %s/config/%s/prod", p.Name(), p.Name()), fmt.Sprintf("vault patch %s/config/%s/prod request_timeout=15s", p.Name(), p.Name())),
	}
}

func (b *backend) configExists(p provider.Provider) framework.ExistenceFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
		return storage.Exists(ctx, req.Storage, storage.CredentialKey(p.Name(), d.Get("name").(string)))
	}
}

func (b *backend) configList(of []provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		vendors, err := b.vendors(ctx, req.Storage, of)
		if err != nil {
			return nil, err
		}
		info := map[string]any{}
		for name, vendor := range vendors {
			info[name] = map[string]any{"vendor": vendor}
		}
		return logical.ListResponseWithInfo(sortedKeys(vendors), info), nil
	}
}

// vendors returns the vendor in the path of each credential, by name.
func (b *backend) vendors(ctx context.Context, s logical.Storage, of []provider.Provider) (map[string]string, error) {
	vendors := map[string]string{}
	for _, p := range of {
		names, err := storage.List(ctx, s, storage.CredentialKey(p.Name(), ""))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			vendors[name] = p.Name()
		}
	}
	return vendors, nil
}

func (b *backend) configRead(p provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		stored, err := b.store.Read(ctx, req.Storage, p, d.Get("name").(string))
		if stored == nil || err != nil {
			return nil, err
		}
		values := &framework.FieldData{Raw: stored.Fields, Schema: d.Schema}
		data := map[string]any{"secrets_set": stored.Secrets}
		for field, schema := range d.Schema {
			_, isSet := stored.Fields[field]
			if isStored(field) && (isSet || schema.Default != nil) {
				data[field] = values.Get(field)
			}
		}
		if r := stored.Resolved; r != nil {
			data["keepalive_interval"] = int(r.Keepalive.Seconds())
			if len(r.URLs) > 0 {
				data["resolved_urls"] = r.URLs
			}
			if len(r.Scope) > 0 {
				data["resolved_scope"] = r.Scope
			}
		}
		return &logical.Response{Data: data}, nil
	}
}

// configWrite stores a credential. The request comes from HandleRequest, which has checked the
// names and types of its fields (input.go). givenFields (input_values.go) reads the fields, and
// credential.Store.Write applies them to the stored ones, has the provider check the result
// (provider.Provider.Open), verifies it by an exchange and stores it.
func (b *backend) configWrite(p provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		name := d.Get("name").(string)
		fields, err := givenFields(d)
		if err != nil {
			return failure(name, err)
		}
		write := credential.WriteRequest{Operation: operationOf(req), Fields: fields}
		if verify, given := d.GetOk("verify"); given {
			write.Verify = new(verify.(bool))
		}
		if err := b.store.Write(ctx, req.Storage, p, name, write); err != nil {
			return failure(name, err)
		}
		warnings := b.roleWarnings(ctx, req.Storage, name)
		if len(warnings) == 0 {
			return nil, nil
		}
		return &logical.Response{Warnings: warnings}, nil
	}
}

func (b *backend) configDelete(p provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		name := d.Get("name").(string)
		err := b.deleteCredential(ctx, req.Storage, p, name)
		b.roles.forget(name)
		if err != nil {
			return failure(name, err)
		}
		b.events.Forget(name)
		return nil, nil
	}
}

// deleteCredential deletes a credential that no role uses.
func (b *backend) deleteCredential(ctx context.Context, s logical.Storage, p provider.Provider, name string) error {
	deletion, err := b.store.BeginDelete(ctx, s, p, name)
	if err != nil {
		return err
	}
	defer deletion.End()
	if err := checkUnused(deletion.Context(), s, p.Name(), name); err != nil {
		return err
	}
	return deletion.Delete()
}

const configHelpDescription = `
A write to an existing credential changes the given fields and keeps the others. An
empty value clears a field. Secrets are write-only: secrets_set lists those that are
set.

The engine exchanges a credential once before it stores it, and refuses the write if
the vendor rejects the credential. Set verify=false to skip this while the vendor is
unavailable.

A write that changes where a stored secret is sent must give the secret again. This
includes a change of a URL, of a field that selects one, and of ca_cert.

A write takes effect at once: no later read returns a token of the previous credential.
A write that gives only description, expires, request_timeout or keepalive_interval
keeps the cached tokens and is verified only with verify=true. A credential that roles
use cannot be deleted.
`

const mapHelp = `
A map replaces the stored map. In a patch it is merged with the stored map, and null
removes a name.
`

const grantTypeHelp = `
If the grant type follows from the stored secrets, a write that clears a secret and so
changes the grant type must set grant_type.
`

// configHelp returns the help of a path with the given fields.
func configHelp(fields map[string]*framework.FieldSchema) string {
	text := configHelpDescription
	for _, schema := range fields {
		if schema.Type == framework.TypeKVPairs {
			text += mapHelp
			break
		}
	}
	if fields["grant_type"] != nil {
		text += grantTypeHelp
	}
	return text
}
