package tokenbroker

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

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
