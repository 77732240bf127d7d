package tokenbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
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

func (b *backend) pathVendorPreview() *framework.Path {
	return &framework.Path{
		Pattern:      "vendors/" + framework.GenericNameRegex(vendorFieldName) + "/preview",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			vendorFieldName: vendorField(),
			"definition": {
				Type:         framework.TypeString,
				Description:  "Definition to try, as JSON. Default: that of the vendor.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Definition", EditType: "file"},
			},
			"answer": {
				Type:         framework.TypeString,
				Description:  "Answer of the vendor to the token request: its body. Without it, only the requests are shown.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Answer", EditType: "file"},
			},
			"status": {
				Type:         framework.TypeInt,
				Description:  "HTTP status of the answer.",
				Default:      200,
				DisplayAttrs: &framework.DisplayAttributes{Name: "Status"},
			},
		},
		TakesArbitraryInput: true,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.vendorsPreview,
				Summary:                     "Show the requests that a credential would send, without sending them.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: previewFields()}},
				},
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "preview", OperationSuffix: "vendor"},
			},
		},
		HelpSynopsis:    "Show the requests that a credential would send, and how an answer would be read.",
		HelpDescription: withExample(previewHelpDescription, "vault write kensho/vendors/acme/preview region=eu api_key=..."),
	}
}

func previewFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"requests":         {Type: framework.TypeStringSlice, Description: "Requests, with the names of secrets in place of their values."},
		"exchange_request": {Type: framework.TypeString, Description: "Request that exchanges a caller's token at exchange/<name>, with the names of what the caller gives. Omitted if the grant has none."},
		"token":            {Type: framework.TypeMap, Description: "What readers would get from the answer: token_type, expire_time, http_header and others, with the token masked. Omitted without an answer."},
		"error":            {Type: framework.TypeString, Description: "Error with which the answer would be refused, if it would."},
		"error_kind":       {Type: framework.TypeString, Description: "Kind of that error: rejected, unavailable or invalid_response."},
		"grant_type":       {Type: framework.TypeString, Description: "Grant type that the fields choose."},
		"destination":      {Type: framework.TypeStringSlice, Description: "URLs that receive the credential's secrets, or a token to revoke."},
	}
}

func (b *backend) vendorsPreview(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get(vendorFieldName).(string)
	p, err := b.previewed(ctx, req.Storage, name, d.Get("definition").(string))
	if err != nil {
		return failure(name, err)
	}
	given := map[string]any{}
	for field, value := range d.Raw {
		if !slices.Contains(previewOwn, field) {
			given[field] = value
		}
	}
	if given["private_key_source"] != nil {
		return logical.ErrorResponse("private_key_source: a preview uses no key pair; give a private_key"), nil
	}
	schema := credentialFields(p)
	if err := checkInput(schema, logical.UpdateOperation, given); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	fields, err := givenFields(&framework.FieldData{Raw: given, Schema: schema})
	if err != nil {
		return failure(name, err)
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	preview, err := p.Preview(ctx, raw, d.Get("answer").(string), d.Get("status").(int))
	if err != nil {
		return failure(name, err)
	}
	resp := &logical.Response{Data: previewData(preview)}
	if d.Get("definition").(string) != "" {
		resp.Warnings = p.Warnings()
	}
	return resp, nil
}

// previewOwn are the fields of a preview that are not those of a credential.
var previewOwn = []string{vendorFieldName, "definition", "answer", "status", "name"}

// previewFieldsOf returns the fields that a preview of a vendor may have: its own, and those of a credential.
func (b *backend) previewFieldsOf(ctx context.Context, req *logical.Request, path *framework.Path, name string) (map[string]*framework.FieldSchema, error) {
	text, _ := req.Data["definition"].(string)
	p, err := b.previewed(ctx, req.Storage, name, text)
	if err != nil {
		return nil, err
	}
	fields := maps.Clone(credentialFields(p))
	maps.Copy(fields, path.Fields)
	return fields, nil
}

// previewed returns the vendor of a preview: of the text of a definition, or the one with the name if
// there is no text.
func (b *backend) previewed(ctx context.Context, s logical.Storage, name, text string) (*definition.Provider, error) {
	if text != "" {
		parsed, err := definition.Parse(name, []byte(text))
		if err != nil {
			return nil, err
		}
		return definition.NewProvider(parsed), nil
	}
	p, err := b.vendor(ctx, s, name, "")
	if err != nil {
		return nil, err
	}
	defined, isDefined := p.(*definition.Provider)
	if !isDefined {
		return nil, provider.Errorf(provider.Invalid, "vendor: the exchange of %s is code, and has no preview", name)
	}
	return defined, nil
}

func previewData(p *definition.Preview) map[string]any {
	data := map[string]any{"requests": p.Requests, "grant_type": p.GrantType, "destination": p.Destinations}
	if p.Exchange != "" {
		data["exchange_request"] = p.Exchange
	}
	if p.Token != nil {
		data["token"] = p.Token
	}
	if p.Err != nil {
		data["error"], data["error_kind"] = p.Err.Reason, p.Err.Kind.String()
	}
	return data
}

const previewHelpDescription = `
Give the fields of a credential, and a definition to try one that is not written yet.
Nothing is sent and nothing is stored. In the requests, the name of a field stands in
place of a secret, and an assertion is shown as its header and its claims.

With answer, the pasted answer of the vendor is read as one to the token request. Its
token is not shown. Give status for an answer that is an error.
`
