package tokenbroker

import (
	"context"
	"slices"

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
				Summary:                     "List the credentials of all providers.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "credentials"},
			},
		},
		HelpSynopsis:    "List the credentials of all providers.",
		HelpDescription: "Each name comes with its provider. A name belongs to one provider.",
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
		HelpSynopsis:    "List the credentials of " + p.Summary() + ".",
		HelpDescription: "Each one is read from creds/<name>.",
	}
}

// credentialFields are the fields of the path of a vendor's credentials.
func credentialFields(p provider.Provider) map[string]*framework.FieldSchema {
	fields := credential.Fields(p)
	fields["name"] = &framework.FieldSchema{
		Type:         framework.TypeNameString,
		Description:  "The credential's name, which creds/<name> is read by.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
	}
	fields["verify"] = &framework.FieldSchema{
		Type:         framework.TypeBool,
		Description:  "Whether to exchange the credential once before storing it. It is not stored itself.",
		Default:      true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Verify"},
	}
	return fields
}

func (b *backend) pathConfigCredential(p provider.Provider) *framework.Path {
	fields := credentialFields(p)
	write := &framework.PathOperation{
		Callback:                    b.configWrite(p),
		Summary:                     "Store a credential; on an existing one, change the fields that are named.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "configure", OperationSuffix: p.Name() + "-credential"},
	}
	patch := *write
	patch.Summary = "Change some fields of a credential; null clears one."
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
				Summary:                     "Delete a credential and the tokens that the engine holds of it.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: p.Name() + "-credential"},
			},
		},
		ExistenceCheck:  b.configExists(p),
		HelpSynopsis:    "Store a credential of " + p.Summary() + ".",
		HelpDescription: configHelpDescription,
	}
}

func (b *backend) configExists(p provider.Provider) framework.ExistenceFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
		return storage.Exists(ctx, req.Storage, storage.CredentialKey(p.Name(), d.Get("name").(string)))
	}
}

func (b *backend) configList(of []provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		var names []string
		info := map[string]any{}
		for _, p := range of {
			keys, err := storage.List(ctx, req.Storage, storage.CredentialKey(p.Name(), ""))
			if err != nil {
				return nil, err
			}
			for _, key := range keys {
				names = append(names, key)
				info[key] = map[string]any{"provider": p.Name()}
			}
		}
		slices.Sort(names)
		return logical.ListResponseWithInfo(names, info), nil
	}
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
			if isStored(field) && !credential.IsSecret(schema) && (isSet || schema.Default != nil) {
				data[field] = values.Get(field)
			}
		}
		if stored.Keepalive != nil {
			data["keepalive_interval"] = int(stored.Keepalive.Seconds())
		}
		return &logical.Response{Data: data}, nil
	}
}

func (b *backend) configWrite(p provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		name := d.Get("name").(string)
		fields, err := givenFields(d)
		if err != nil {
			return failure(name, err)
		}
		write := credential.Write{Operation: operationOf(req), Fields: fields}
		if verify, given := d.GetOk("verify"); given {
			write.Verify = new(verify.(bool))
		}
		if err := b.store.Write(ctx, req.Storage, p, name, write); err != nil {
			return failure(name, err)
		}
		warnings := b.outgrown(ctx, req.Storage, name)
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
		b.names.forget(name)
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
A write to a name that exists changes the fields that it names and keeps the
others; an empty value clears a field. Secrets are never read back: secrets_set
names those that are stored.

Before anything is stored the credential is exchanged once, so that one which
the vendor rejects is refused here and not at three in the morning. verify=false
leaves that out, for a vendor that is down.

A stored secret goes only where its writer sent it: a write that changes a URL to
which it is sent, by whichever field (a product or a preset too), or the ca_cert, must
give the secret again.

A map takes the place of the stored one; in a patch it is merged with it, and null
removes a name.

Where the grant follows from the secrets that are stored, a write that clears one of
them and so changes the grant must name it (grant_type).

A write counts at once: tokens of the credential as it was are not served again. One
that gives only description, expires, request_timeout or keepalive_interval changes no
exchange: it is not verified, unless by verify=true, and tokens stay in use. A
credential that roles use cannot be deleted.
`
