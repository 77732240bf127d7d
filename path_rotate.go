package tokenbroker

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

// pathRotate returns the path at which the secret of a credential is replaced at its vendor.
func (b *backend) pathRotate() *framework.Path {
	fields := rotateFields("Name of the credential.")
	fields[vendorFieldName] = vendorField()
	return &framework.Path{
		Pattern:      "config/" + framework.GenericNameRegex(vendorFieldName) + "/" + apipath.NamePattern("name") + "/rotate",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "credential"},
		Fields:       fields,
		Operations:   rotateOperation(b.rotateWrite, "Replace the secret of a credential at its vendor, now."),

		HelpSynopsis:    "Replace the secret of a credential at its vendor.",
		HelpDescription: withExample(rotateHelpDescription, "vault write -f entra/config/entra/prod/rotate", "vault write entra/config/entra/prod/rotate rotation_grace=0"),
	}
}

// pathRotateClient returns the path at which the secret of a client is replaced at its vendor.
func (b *backend) pathRotateClient() *framework.Path {
	return &framework.Path{
		Pattern:         "clients/" + apipath.NamePattern("name") + "/rotate",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "client"},
		Fields:          rotateFields("Name of the client."),
		Operations:      rotateOperation(b.rotateClientWrite, "Replace the secret of a client at its vendor, now."),
		HelpSynopsis:    "Replace the secret of a client at its vendor.",
		HelpDescription: withExample(rotateClientHelpDescription, "vault write -f entra/clients/portal/rotate"),
	}
}

func (b *backend) rotateClientWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	request, err := rotationRequest(req, d)
	if err != nil {
		return failure(name, err)
	}
	result, err := b.store.RotateClient(ctx, req.Storage, name, request)
	return rotationResponse(name, result, err)
}

// rotateFields returns the fields of a rotation. name describes what is rotated.
func rotateFields(name string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeString,
			Description:  name,
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"rotation_grace": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the former secret stays valid at the vendor. 0 removes it at once, after a leak. Default: rotation_grace of what is rotated.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation grace"},
		},
	}
}

func rotateOperation(callback framework.OperationFunc, summary string) map[logical.Operation]framework.OperationHandler {
	return map[logical.Operation]framework.OperationHandler{
		logical.UpdateOperation: &framework.PathOperation{
			Callback:                    callback,
			Summary:                     summary,
			ForwardPerformanceStandby:   true,
			ForwardPerformanceSecondary: true,
			Responses: map[int][]framework.Response{
				200: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
					"rotated":      {Type: framework.TypeBool, Description: "Whether the new secret is in use. If it is not, the vendor does not accept it yet, and the rotation goes on in the background.", Required: true},
					"former_until": {Type: framework.TypeTime, Description: "When the former secret is removed at the vendor. Omitted if it is removed already."},
				}}},
			},
		},
	}
}

func (b *backend) rotateWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	p, err := b.vendor(ctx, req.Storage, d.Get(vendorFieldName).(string), name)
	if err != nil {
		return failure(name, err)
	}
	request, err := rotationRequest(req, d)
	if err != nil {
		return failure(name, err)
	}
	result, err := b.store.Rotate(ctx, req.Storage, p, name, request)
	return rotationResponse(name, result, err)
}

// rotationRequest returns what a request for a rotation asks for.
func rotationRequest(req *logical.Request, d *framework.FieldData) (credential.RotationRequest, error) {
	request := credential.RotationRequest{By: req.DisplayName}
	if request.By == "" {
		request.By = "request"
	}
	if seconds, given := d.GetOk("rotation_grace"); given {
		grace := time.Duration(seconds.(int)) * time.Second
		if grace < 0 {
			return request, provider.Errorf(provider.Invalid, "rotation_grace: must not be negative")
		}
		request.Grace = &grace
	}
	return request, nil
}

func rotationResponse(name string, result credential.RotationResult, err error) (*logical.Response, error) {
	if err != nil {
		return failure(name, err)
	}
	data := map[string]any{"rotated": !result.IsPending}
	if !result.FormerUntil.IsZero() {
		data["former_until"] = broker.FormatTime(result.FormerUntil)
	}
	resp := &logical.Response{Data: data}
	if result.IsPending {
		resp.AddWarning("the vendor does not accept the new secret yet; the present one stays in use, and the rotation goes on in the background (" + apipath.Status(name) + ")")
	}
	return resp, nil
}

// leftoversResponse returns the response to a deletion that leaves secrets at the vendor; nil if it leaves none.
func leftoversResponse(leftovers []string) *logical.Response {
	if len(leftovers) == 0 {
		return nil
	}
	resp := &logical.Response{}
	resp.AddWarning("a rotation has left secrets at the vendor, which nobody removes any more; remove them there: " + strings.Join(leftovers, "; "))
	return resp
}

const rotateHelpDescription = `
The vendor issues a new secret, or accepts a new public key. The engine proves it by an
exchange, stores it, and removes the former one at the vendor after rotation_grace. Cached
tokens stay in use. What a crash leaves half done, the background work completes.

After a leak of the secret, give rotation_grace=0: the former secret is removed at once,
and cached tokens are dropped. To also end tokens that were issued already, refresh with
drop=true afterwards.

rotation_period or rotation_schedule at config/<vendor>/<name> repeats it. Vendors without
an API for it are refused with the reason.
`

const rotateClientHelpDescription = `
As config/<vendor>/<name>/rotate, for the secret that the credentials of a client share.
The new secret is tried first, and while the vendor refuses it, the former one is used. It
is removed at the vendor after rotation_grace, once the new one has worked.

rotation_period or rotation_schedule at clients/<name> repeats it, as long as a credential
uses the client.
`
