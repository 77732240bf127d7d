package tokenbroker

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

func (b *backend) pathVendors() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.vendorsWrite,
		Summary:                     "Write the definition of a vendor of your own.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "define", OperationSuffix: "vendor"},
	}
	return []*framework.Path{
		{
			Pattern:      "vendors/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Vendor"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.vendorsList,
					Summary:                     "List the vendors.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "vendors"},
				},
			},
			HelpSynopsis:    "List the vendors: those of the engine, and your own.",
			HelpDescription: withExample("key_info holds the title of each vendor, and whether it is built_in.", "vault list -detailed kensho/vendors"),
		},
		{
			Pattern:      "vendors/" + framework.GenericNameRegex(vendorFieldName),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Vendor"},
			Fields: map[string]*framework.FieldSchema{
				vendorFieldName: vendorField(),
				"definition": {
					Type:         framework.TypeString,
					Description:  "Definition of the vendor, as JSON. docs/definitions.md explains it.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Definition", EditType: "file"},
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation: &framework.PathOperation{
					Callback:                    b.vendorsRead,
					Summary:                     "Read what a vendor needs.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: vendorInfoFields()}},
					},
					DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "vendor"},
				},
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.vendorsDelete,
					Summary:                     "Delete the definition of a vendor of your own that has no credentials.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "vendor"},
				},
			},
			ExistenceCheck:  b.vendorsExists,
			HelpSynopsis:    "Read what a vendor needs, or define a vendor of your own.",
			HelpDescription: withExample(vendorsHelpDescription, "vault write kensho/vendors/acme definition=@acme.json", "vault read kensho/vendors/acme"),
		},
		b.pathVendorPreview(),
	}
}

// vendorInfoFields returns the response fields of a vendor.
func vendorInfoFields() map[string]*framework.FieldSchema {
	text := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description}
	}
	texts := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeStringSlice, Description: description}
	}
	return map[string]*framework.FieldSchema{
		"title":              text("Name of the vendor as people write it."),
		"built_in":           {Type: framework.TypeBool, Description: "Whether the engine has the vendor; otherwise an operator has defined it."},
		"write":              text("Command that stores a credential."),
		"grant_types":        texts("Ways to a token. Without grant_type, the first of them whose fields are set is used."),
		"fields":             {Type: framework.TypeMap, Description: "Fields of the vendor, besides those of every credential, by name: description, required, needed_for (grant types), secret, default, allowed."},
		"http_header":        text("Header in which the vendor's API takes a token."),
		"query_parameter":    text("Query parameter in which the vendor's API takes a token, instead of a header."),
		"other_http_headers": {Type: framework.TypeMap, Description: "Further headers that the vendor's API wants, by name."},
		"rotates":            {Type: framework.TypeStringSlice, Description: "Secret fields that the engine can replace at the vendor (config/<vendor>/<name>/rotate). Omitted if there are none."},
		"by_grant_type":      {Type: framework.TypeMap, Description: "What differs of the three above for a grant type, by its name."},
		"notes":              text("What to create at the vendor, and its limits."),
		"docs":               texts("Pages of the vendor from which the definition was written."),
		"evidence":           text("What these pages are: documentation, specification or repository."),
		"definition":         text("Definition of the vendor, as JSON. Omitted for a vendor whose exchange is code."),
	}
}

func (b *backend) vendorsExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	name := d.Get(vendorFieldName).(string)
	if builtIn(name) != nil {
		return true, nil
	}
	return storage.Exists(ctx, req.Storage, storage.VendorKey(name)) // a damaged one can be replaced
}

func (b *backend) vendorsList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	own, err := b.store.OwnVendors(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, name := range builtInNames() {
		info[name] = map[string]any{"title": builtIn(name).Summary(), "built_in": true}
	}
	for _, name := range own {
		title := "(cannot be read)"
		if p, err := b.store.OwnVendor(ctx, req.Storage, name); err == nil && p != nil {
			title = p.Title
		}
		info[name] = map[string]any{"title": title, "built_in": false}
	}
	return logical.ListResponseWithInfo(sortedKeys(info), info), nil
}

func (b *backend) vendorsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get(vendorFieldName).(string)
	p, err := b.store.Vendor(ctx, req.Storage, name)
	if err != nil || p == nil {
		return nil, err
	}
	data := map[string]any{
		"title": p.Summary(), "built_in": builtIn(name) != nil,
		"write": fmt.Sprintf("vault write %sconfig/%s/<name> %s", req.MountPoint, name, p.Example()),
	}
	fields, common := map[string]any{}, credential.CommonSchemas()
	for field, schema := range credential.FieldSchemas(p) {
		if common[field] != nil {
			continue
		}
		about := map[string]any{"description": schema.Description}
		if credential.IsSecret(schema) {
			about["secret"] = true
		}
		if schema.Default != nil {
			about["default"] = schema.Default
		}
		if len(schema.AllowedValues) > 0 {
			about["allowed"] = schema.AllowedValues
		}
		fields[field] = about
	}
	data["fields"] = fields
	about := p.About()
	for name, value := range map[string]string{"notes": about.Notes, "evidence": about.Evidence} {
		if value != "" {
			data[name] = value
		}
	}
	for name, values := range map[string][]string{"docs": about.Docs, "grant_types": about.GrantTypes} {
		if len(values) > 0 {
			data[name] = values
		}
	}
	if defined, isDefined := p.(*definition.Provider); isDefined {
		describe(data, fields, defined)
	} else {
		data["http_header"] = "Authorization: Bearer <access_token>"
	}
	return &logical.Response{Data: data}, nil
}

// describe adds what the definition of a vendor says.
func describe(data, fields map[string]any, p *definition.Provider) {
	p.AddAPI(data, "")
	others := map[string]any{}
	for _, grant := range p.GrantsWithAPI() {
		api := map[string]any{}
		p.AddAPI(api, grant)
		others[grant] = api
	}
	if len(others) > 0 {
		data["by_grant_type"] = others
	}
	if rotated := p.RotatedSecrets(); len(rotated) > 0 {
		data["rotates"] = rotated
	}
	data["definition"] = string(p.Text())
	for name, about := range fields {
		if isRequired(p, name) {
			about.(map[string]any)["required"] = true
		}
		if grants := p.GrantsNeeding(name); len(grants) > 0 {
			about.(map[string]any)["needed_for"] = grants
		}
	}
}

func (b *backend) vendorsWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get(vendorFieldName).(string)
	text, _ := d.Get("definition").(string)
	switch {
	case builtIn(name) != nil:
		return logical.ErrorResponse("vendor: the engine has a vendor named %q; choose another name", name), nil
	case text == "":
		return logical.ErrorResponse("definition: must be set; give a file with definition=@%s.json", name), nil
	}
	warnings, err := b.store.WriteVendor(ctx, req.Storage, name, []byte(text))
	if err != nil {
		return failure(name, err)
	}
	resp := &logical.Response{}
	if meant := catalogue.Find(name); meant != nil {
		warnings = append(warnings, fmt.Sprintf("the engine has %s as %s", meant.Title, meant.Name()))
	}
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
	if len(resp.Warnings) == 0 {
		return nil, nil
	}
	return resp, nil
}

func (b *backend) vendorsDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get(vendorFieldName).(string)
	if builtIn(name) != nil {
		return logical.ErrorResponse("vendor: %q is built in and cannot be deleted", name), nil
	}
	if err := b.store.DeleteVendor(ctx, req.Storage, name); err != nil {
		return failure(name, err)
	}
	return nil, nil
}

const vendorsHelpDescription = `
A vendor of the engine is documented here with its fields, the ways to a token, and
links. A vendor of your own is a definition in JSON; a credential of it is at
config/<vendor>/<name>, as those of all vendors.

A name of the engine's own vendors cannot be taken. A definition that credentials use
cannot be deleted, nor changed so that they can no longer be opened, or that a stored
secret would be sent to another destination. vendors/<vendor>/preview shows what a
definition would send, without sending it.
`
