package tokenbroker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathClients() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.clientWrite,
		Summary:                     "Store a client, or change the given fields of an existing one.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "configure", OperationSuffix: "client"},
	}
	patch := *write
	patch.Summary = "Change the given fields of a client; null clears a field."
	patch.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "client"}
	return []*framework.Path{
		b.pathRotateClient(),
		{
			Pattern:      "clients/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Client"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.clientList,
					Summary:                     "List the clients.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "clients"},
				},
			},
			HelpSynopsis:    "List the OAuth clients that credentials share.",
			HelpDescription: withExample("key_info holds the vendor of each client.", "vault list -detailed kensho/clients"),
		},
		{
			Pattern:             "clients/" + apipath.NamePattern("name"),
			DisplayAttrs:        &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Client"},
			Fields:              clientFields(nil),
			TakesArbitraryInput: true, // the fields of the vendor
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.PatchOperation:  &patch,
				logical.ReadOperation: &framework.PathOperation{
					Callback:                    b.clientRead,
					Summary:                     "Read a client's settings, without its secrets.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: readableClientFields()}},
					},
					DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "client"},
				},
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.clientDelete,
					Summary:                     "Delete a client that no credential uses.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "client"},
				},
			},
			ExistenceCheck:  b.clientExists,
			HelpSynopsis:    "Store an OAuth client that many credentials share.",
			HelpDescription: withExample(clientHelpDescription, "vault write kensho/clients/crm vendor=oauth2 issuer=https://auth.example.com client_id=crm client_secret=... grant_type=refresh_token redirect_uri=https://vault.example.com/v1/kensho/callback", "vault write kensho/config/oauth2/alice client=crm"),
		},
	}
}

// clientFields returns the fields of the path of a client of a vendor; without a vendor, those that all
// clients have.
func clientFields(p provider.Provider) map[string]*framework.FieldSchema {
	fields := credential.CommonSchemas()
	delete(fields, "description")
	if p != nil {
		fields = credential.ClientFieldSchemas(p)
	}
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeString,
			Description:  "Name of the client. Credentials use it with client=<name>.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		vendorFieldName: {
			Type:         framework.TypeNameString,
			Description:  "Vendor of the client: one of those that vendors/ lists and whose credentials have a client_id. Required to create a client; it cannot be changed.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Vendor"},
		},
		"description": {
			Type:         framework.TypeString,
			Description:  "Purpose and owner of the client, at most 500 characters. Reads return it; do not put secrets here.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
		"reap_after": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the vendor must have rejected the refresh token of a credential (invalid_grant) for the credential to be deleted, at least 1h. Default: 0, never.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Reap after"},
		},
		"drop_former": {
			Type:         framework.TypeBool,
			Description:  "Whether to drop the former secrets now, although the new ones have not worked for all credentials. Not stored.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Drop former secrets"},
		},
	})
	return fields
}

// readableClientFields returns the fields that a read of a client returns, besides those of its vendor.
func readableClientFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		vendorFieldName:      {Type: framework.TypeString, Description: "Vendor of the client.", Required: true},
		"description":        {Type: framework.TypeString, Description: "The stored value. Absent if none is stored."},
		"reap_after":         {Type: framework.TypeDurationSecond, Description: "The stored value, or else 0.", Required: true},
		"secrets_set":        {Type: framework.TypeStringSlice, Description: "Names of the secret fields that are set.", Required: true},
		"former_secrets_set": {Type: framework.TypeStringSlice, Description: "Names of the secret fields of which the former value is still used where the vendor refuses the new one. Absent if there is none."},
		"waiting":            {Type: framework.TypeStringSlice, Description: "Names of credentials for which the new secrets have not worked yet, at most 20. Absent without former secrets."},
		"waiting_count":      {Type: framework.TypeInt, Description: "Number of these credentials. Absent without former secrets."},
		"credentials":        {Type: framework.TypeStringSlice, Description: "Names of credentials that use the client, at most 20.", Required: true},
		"rotation":           {Type: framework.TypeMap, Description: "Rotation of the secret, as status/<name> returns that of a credential. Absent if there is neither a rotation nor a schedule."},
		"credential_count":   {Type: framework.TypeInt, Description: "Number of credentials that use the client.", Required: true},
	}
}

// clientFieldsOf returns the fields that a request to a client may have: those of its vendor.
func (b *backend) clientFieldsOf(ctx context.Context, req *logical.Request, name string) (map[string]*framework.FieldSchema, error) {
	vendor, _ := req.Data[vendorFieldName].(string)
	if vendor == "" {
		var err error
		if vendor, err = b.store.ClientVendor(ctx, req.Storage, name); err != nil {
			return nil, err
		}
	}
	if vendor == "" {
		return nil, provider.Errorf(provider.Invalid, "vendor: must be set: the name of one of those that vendors/ lists")
	}
	p, err := b.vendor(ctx, req.Storage, vendor, name)
	if err == nil {
		err = credential.CheckHasClients(p)
	}
	if err != nil {
		return nil, err
	}
	return clientFields(p), nil
}

func (b *backend) clientExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	return storage.Exists(ctx, req.Storage, storage.ClientKey(d.Get("name").(string)))
}

func (b *backend) clientList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	clients, err := b.store.Clients(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for name, vendor := range clients {
		info[name] = map[string]any{"vendor": vendor}
	}
	return logical.ListResponseWithInfo(sortedKeys(clients), info), nil
}

// maxShownNames is how many credentials a read of a client names.
const maxShownNames = 20

func (b *backend) clientRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	c, err := b.store.ReadClient(ctx, req.Storage, name)
	if c == nil || err != nil {
		return nil, err
	}
	fields := clientFields(nil)
	if p, err := b.store.Vendor(ctx, req.Storage, c.Vendor); err == nil && p != nil {
		fields = clientFields(p)
	}
	data := map[string]any{}
	values := &framework.FieldData{Raw: c.Fields, Schema: fields}
	for field := range c.Fields {
		if fields[field] != nil {
			data[field] = values.Get(field)
		}
	}
	data[vendorFieldName], data["reap_after"] = c.Vendor, int(c.ReapAfter.Seconds())
	data["secrets_set"] = append([]string{}, c.SecretFields...)
	data["credentials"], data["credential_count"] = firstNames(c.Users), len(c.Users)
	if c.Description != "" {
		data["description"] = c.Description
	}
	if r := c.RotationStatus(time.Now()); r != nil {
		data["rotation"] = rotationData(r)
	}
	if len(c.FormerSet) > 0 {
		data["former_secrets_set"], data["waiting"], data["waiting_count"] = c.FormerSet, firstNames(c.Waiting), len(c.Waiting)
	}
	return &logical.Response{Data: data}, nil
}

func firstNames(names []string) []string {
	return append([]string{}, names[:min(len(names), maxShownNames)]...)
}

func (b *backend) clientWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	schema, err := b.clientFieldsOf(ctx, req, name)
	if err != nil {
		return failure(name, err)
	}
	all := &framework.FieldData{Raw: d.Raw, Schema: schema}
	fields, err := givenFields(all)
	if err != nil {
		return failure(name, err)
	}
	for _, own := range []string{vendorFieldName, "description", "reap_after", "drop_former"} {
		delete(fields, own)
	}
	write := credential.ClientRequest{WriteRequest: credential.WriteRequest{Operation: operationOf(req), Fields: fields}}
	if text, given := all.Raw["description"]; given {
		description, _ := text.(string)
		write.Description = new(strings.TrimSpace(description))
	}
	if raw, given := all.Raw["reap_after"]; given {
		write.ReapAfter = new(time.Duration)
		if raw != nil && raw != "" {
			*write.ReapAfter = time.Duration(all.Get("reap_after").(int)) * time.Second
		}
	}
	write.DropFormer, _ = all.Get("drop_former").(bool)
	vendor, _ := all.Get(vendorFieldName).(string)
	if err := b.store.WriteClient(ctx, req.Storage, vendor, name, write); err != nil {
		return failure(name, err)
	}
	return nil, nil
}

func (b *backend) clientDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	leftovers, err := b.store.DeleteClient(ctx, req.Storage, name)
	if err != nil {
		return failure(name, err)
	}
	return leftoversResponse(leftovers), nil
}

// maxReaps is how many credentials one run of the background work tries to delete.
const maxReaps = 20

// An unreaped credential is one that could not be deleted.
type unreaped struct {
	reason string
	tried  time.Time
}

// reap deletes credentials that the vendor has rejected for longer than the reap_after of their client.
// One that a role uses stays. Those that were tried longest ago come first, so that the ones that stay do
// not keep others from being deleted.
func (b *backend) reap(ctx context.Context, s logical.Storage) error {
	reapables, err := b.store.Reapables(ctx, s, time.Now())
	if err != nil {
		return err
	}
	stay := map[string]unreaped{}
	for _, r := range reapables {
		if last, isKnown := b.unreaped[r.Name]; isKnown {
			stay[r.Name] = last
		}
	}
	b.unreaped = stay
	slices.SortStableFunc(reapables, func(x, y credential.Reapable) int { return stay[x.Name].tried.Compare(stay[y.Name].tried) })
	for _, r := range reapables[:min(len(reapables), maxReaps)] {
		isDeleted, err := b.reapOne(ctx, s, r)
		switch {
		case storage.IsError(err):
			return err
		case err != nil:
			if stay[r.Name].reason != err.Error() {
				b.Logger().Warn("a rejected credential cannot be deleted", "name", r.Name, "client", r.Client, "error", err)
			}
			stay[r.Name] = unreaped{err.Error(), time.Now()}
		case isDeleted:
			b.Logger().Warn("a credential is deleted, as the vendor has rejected it for longer than reap_after of its client", "name", r.Name, "client", r.Client, "rejected_since", r.Since.Format(time.RFC3339))
			b.roles.forget(r.Name)
			b.events.Forget(r.Name)
			b.events.Reaped(r.Name, r.Vendor, r.Client, r.Since)
		}
	}
	return nil
}

// reapOne deletes a credential if the vendor rejects it once more, and no person is about to consent.
func (b *backend) reapOne(ctx context.Context, s logical.Storage, r credential.Reapable) (isDeleted bool, err error) {
	if err := checkUnused(ctx, s, r.Vendor, r.Name); err != nil { // before the vendor is asked, as it stays every minute
		return false, fmt.Errorf("%w; it stays until then", err)
	}
	if c, err := b.store.ReadConsent(ctx, s, r.Name); err != nil || c.State == credential.ConsentPending {
		return false, err
	}
	asked := time.Now()
	if _, err := b.broker.Refresh(ctx, s, r.Name, false); err == nil {
		return false, nil
	}
	deletion, err := b.store.BeginDelete(ctx, s, r.Vendor, r.Name)
	if err != nil {
		return false, err
	}
	defer deletion.End()
	if stays, err := deletion.IsRepaired(r.Since, asked); stays || err != nil {
		return false, err
	}
	if err := checkUnused(deletion.Context(), s, r.Vendor, r.Name); err != nil {
		return false, fmt.Errorf("%w; it stays until then", err)
	}
	return true, deletion.Delete()
}

const clientHelpDescription = `
A credential with client=<name> has the fields of the client as if they were its own:
client_id, the secret or key, redirect_uri, URLs. It adds its refresh_token, or a person
consents to it at authorize/<name>. The credential cannot set what the client sets, except
scope, expires, request_timeout, default_ttl, max_ttl and keepalive_interval, and it cannot
send the client's secrets elsewhere.

A write takes effect at once for all credentials that use the client. To rotate a secret,
write the new one: it is tried first, and while the vendor refuses it, the former one is
used. As soon as the new one has worked for all credentials, the former one is dropped.
Cached tokens stay. A change of any other field drops them, and the former secret.

A client that credentials use cannot be deleted.
`
