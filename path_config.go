package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const vendorFieldName = "vendor"

func (b *backend) pathConfig() []*framework.Path {
	list := func(summary, suffix string) map[logical.Operation]framework.OperationHandler {
		return map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback:                    b.configList,
				Summary:                     summary,
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: suffix},
			},
		}
	}
	return []*framework.Path{
		{
			Pattern:         "config/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Credential"},
			Operations:      list("List the credentials of all vendors.", "credentials"),
			HelpSynopsis:    "List the credentials of all vendors.",
			HelpDescription: withExample("key_info holds the vendor in the path of each name. A name belongs to one vendor.", "vault list -detailed kensho/config"),
		},
		{
			Pattern:         "config/" + framework.GenericNameRegex(vendorFieldName) + "/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Fields:          map[string]*framework.FieldSchema{vendorFieldName: vendorField()},
			Operations:      list("List the credentials of a vendor.", "vendor-credentials"),
			HelpSynopsis:    "List the credentials of a vendor.",
			HelpDescription: withExample("Read a token of a credential at creds/<name> or token/<name>.", "vault list kensho/config/kensho"),
		},
		b.pathConfigCredential(),
		b.pathRotate(),
	}
}

func vendorField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeNameString,
		Description:  "Name of the vendor: one of those that vendors/ lists.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Vendor"},
	}
}

// pathConfigCredential returns the path of the credentials of all vendors. Its fields are those that
// every credential has; those of a vendor are in vendorPath.
func (b *backend) pathConfigCredential() *framework.Path {
	path := b.vendorPath(nil)
	path.Fields[vendorFieldName] = vendorField()
	path.TakesArbitraryInput = true // the fields of the vendor
	return path
}

// credentialFields returns the fields of the path of a vendor's credentials; without a vendor, those that
// all credentials have.
func credentialFields(p provider.Provider) map[string]*framework.FieldSchema {
	fields := credential.CommonSchemas()
	if p != nil {
		fields = maps.Clone(credential.FieldSchemas(p))
	}
	fields["name"] = &framework.FieldSchema{
		Type:         framework.TypeString,
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
			Description: "URLs that receive the credential's secrets, as they follow from the fields. An issuer stands for the endpoints that its metadata lists. Omitted if the secrets are never sent.",
		},
		"resolved_scope": {
			Type:        framework.TypeStringSlice,
			Description: "Scope that the engine requests, as it follows from the fields. Omitted if the vendor decides it.",
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

// vendorPath returns the path of a vendor's credentials with all its fields, for the help and the
// documentation; without a vendor, the path that all vendors share.
func (b *backend) vendorPath(p provider.Provider) *framework.Path {
	fields := credentialFields(p)
	pattern, title, example := framework.GenericNameRegex(vendorFieldName), "a vendor", ""
	if p != nil {
		pattern, title = p.Name(), p.Summary()
		example = p.Example()
	}
	write := &framework.PathOperation{
		Callback:                    b.withVendor(b.configWrite),
		Summary:                     "Store a credential, or change the given fields of an existing one.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "configure", OperationSuffix: "credential"},
	}
	patch := *write
	patch.Summary = "Change the given fields of a credential; null clears a field."
	patch.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "credential"}
	path := &framework.Path{
		Pattern:      "config/" + pattern + "/" + apipath.NamePattern("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Credential"},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation:  &patch,
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.withVendor(b.configRead),
				Summary:                     "Read a credential's settings, without its secrets.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: readableFields(fields)}},
				},
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "credential"},
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                    b.configDelete,
				Summary:                     "Delete a credential and its cached tokens.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "credential"},
			},
		},
		ExistenceCheck: b.configExists,
		HelpSynopsis:   "Store a credential of " + title + ".",
	}
	if p == nil {
		path.HelpDescription = withExample(vendorsHelp+configHelp(fields), "vault write kensho/config/kensho/prod refresh_token=...")
		return path
	}
	path.HelpDescription = withExample(notesOf(p)+configHelp(fields), fmt.Sprintf("vault write %s/config/%s/prod %s", mountOf(p), p.Name(), example), fmt.Sprintf("vault read %s/config/%s/prod", mountOf(p), p.Name()), fmt.Sprintf("vault patch %s/config/%s/prod request_timeout=15s", mountOf(p), p.Name()))
	return path
}

// A vendorFunc handles a request for a credential of a vendor.
type vendorFunc func(ctx context.Context, req *logical.Request, p provider.Provider, d *framework.FieldData) (*logical.Response, error)

// withVendor calls handle with the vendor in the path of a request, and with the vendor's fields.
func (b *backend) withVendor(handle vendorFunc) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		p, err := b.vendor(ctx, req.Storage, d.Get(vendorFieldName).(string), d.Get("name").(string))
		if err != nil {
			return failure(d.Get("name").(string), err)
		}
		return handle(ctx, req, p, &framework.FieldData{Raw: d.Raw, Schema: credentialFields(p)})
	}
}

// vendor returns the vendor with a name, for the credential of a name. If there is none, its error, of kind
// Invalid, names the path that was probably meant.
func (b *backend) vendor(ctx context.Context, s logical.Storage, name, of string) (provider.Provider, error) {
	p, err := b.store.Vendor(ctx, s, name)
	if err != nil || p != nil {
		return p, err
	}
	return nil, provider.Errorf(provider.Invalid, "%s", unknownVendor(name, of))
}

// fieldsOf returns the fields that a request to a path may have.
func (b *backend) fieldsOf(ctx context.Context, req *logical.Request, path *framework.Path) (map[string]*framework.FieldSchema, error) {
	if !path.TakesArbitraryInput {
		return path.Fields, nil
	}
	parts := strings.Split(strings.Trim(req.Path, "/"), "/")
	switch parts[0] {
	case "vendors":
		return b.previewFieldsOf(ctx, req, path, parts[1])
	case "clients":
		return b.clientFieldsOf(ctx, req, parts[1])
	case "roles":
		return b.roleFieldsOf(ctx, req, parts[1])
	case "creds", "token":
		return b.readFieldsOf(ctx, req, parts[1])
	}
	p, err := b.vendor(ctx, req.Storage, parts[1], parts[2])
	if err != nil {
		return nil, err
	}
	return credentialFields(p), nil
}

func (b *backend) configExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	return storage.Exists(ctx, req.Storage, storage.CredentialKey(d.Get(vendorFieldName).(string), d.Get("name").(string)))
}

// configList lists the credentials of the vendor in the path, or of all vendors.
func (b *backend) configList(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	vendors, err := b.store.VendorNames(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if _, isOne := d.Schema[vendorFieldName]; isOne {
		vendor := d.Get(vendorFieldName).(string)
		if _, err := b.vendor(ctx, req.Storage, vendor, ""); err != nil {
			return failure("", err)
		}
		maps.DeleteFunc(vendors, func(_, of string) bool { return of != vendor })
	}
	info := map[string]any{}
	for name, vendor := range vendors {
		info[name] = map[string]any{"vendor": vendor}
	}
	return logical.ListResponseWithInfo(sortedKeys(vendors), info), nil
}

func (b *backend) configRead(ctx context.Context, req *logical.Request, p provider.Provider, d *framework.FieldData) (*logical.Response, error) {
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

// configWrite stores a credential. The request comes from HandleRequest, which has checked the
// names and types of its fields (input.go). givenFields (input_values.go) reads the fields, and
// credential.Store.Write applies them to the stored ones, has the provider check the result
// (provider.Provider.Open), verifies it by an exchange and stores it.
func (b *backend) configWrite(ctx context.Context, req *logical.Request, p provider.Provider, d *framework.FieldData) (*logical.Response, error) {
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
	if required, err := b.store.RequiresConsent(ctx, req.Storage, name); err == nil && required { // the write has succeeded in any case
		warnings = append(warnings, "the credential is not verified, as a person must consent first: begin with a write to "+apipath.Authorize(name))
	}
	if c, err := b.store.Credential(ctx, req.Storage, name); err == nil && c != nil && provider.OnlyDelegates(c.Vendor) {
		warnings = append(warnings, "the credential is not verified, as it has no token of its own; the first write to "+apipath.Exchange(name)+" shows whether the vendor accepts it")
	}
	if c, err := b.store.Credential(ctx, req.Storage, name); err == nil && c != nil && provider.LackOf(c.Vendor) != "" {
		warnings = append(warnings, "the credential is not verified, as it leaves "+provider.LackOf(c.Vendor)+" to roles: read the token of a role that sets it")
	}
	if len(warnings) == 0 {
		return nil, nil
	}
	return &logical.Response{Warnings: warnings}, nil
}

func (b *backend) configDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, vendor := d.Get("name").(string), d.Get(vendorFieldName).(string)
	if _, err := b.vendor(ctx, req.Storage, vendor, name); isInvalid(err) { // a vendor that the engine had before
		if exists, existsErr := b.configExists(ctx, req, d); existsErr != nil || !exists {
			return failure(name, errors.Join(existsErr, err))
		}
	}
	leftovers, err := b.deleteCredential(ctx, req.Storage, vendor, name)
	b.roles.forget(name)
	if err != nil {
		return failure(name, err)
	}
	b.events.Forget(name)
	return leftoversResponse(leftovers), nil
}

// deleteCredential deletes a credential that no role uses. It returns what a rotation has left at the vendor.
func (b *backend) deleteCredential(ctx context.Context, s logical.Storage, vendor, name string) (leftovers []string, err error) {
	deletion, err := b.store.BeginDelete(ctx, s, vendor, name)
	if err != nil {
		return nil, err
	}
	defer deletion.End()
	if err := checkUnused(deletion.Context(), s, vendor, name); err != nil {
		return nil, err
	}
	leftovers = deletion.RemoveSecrets()
	return leftovers, deletion.Delete()
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

const vendorsHelp = `
The fields depend on the vendor. vendors/ lists the vendors, vendors/<vendor> shows one
with its fields, and the help of config/<vendor>/<name> explains them.
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
