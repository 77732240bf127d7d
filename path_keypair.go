package tokenbroker

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathKeypair() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.keypairWrite,
		Summary:                     "Make a key pair; where there is an active one, make one that is to take its place.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		Responses: map[int][]framework.Response{
			200: {{Description: "OK", Fields: keypairFields()}},
		},
		DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "generate", OperationSuffix: "keypair"},
	}
	return []*framework.Path{
		{
			Pattern:      "keypair/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Key pair"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.keypairList,
					Summary:                     "List the key pairs.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "keypairs"},
				},
			},
			HelpSynopsis:    "List the key pairs.",
			HelpDescription: "The public half of each one is read from keypair/<name>.",
		},
		{
			Pattern:      "keypair/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Key pair"},
			Fields:       keypairWriteFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation: &framework.PathOperation{
					Callback:                    b.keypairRead,
					Summary:                     "Read the public half of a key pair, and of the one that is to take its place.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: keypairFields()}},
					},
					DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "keypair"},
				},
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.keypairDelete,
					Summary:                     "Delete a key pair that no credential uses.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "keypair"},
				},
			},
			ExistenceCheck:  b.keypairExists,
			HelpSynopsis:    "Make a key pair whose private half never leaves Vault.",
			HelpDescription: keypairHelpDescription,
		},
		b.pathKeypairActivate(),
	}
}

func keypairNameField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeNameString,
		Description:  "The key pair's name. A credential of the same name uses it unless it says otherwise.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
	}
}

func keypairWriteFields() map[string]*framework.FieldSchema {
	fields := allowedFields()
	fields["name"] = keypairNameField()
	fields["key_type"] = &framework.FieldSchema{
		Type:          framework.TypeString,
		Description:   "The kind of key to make: " + strings.Join(credential.KeyTypes(), ", ") + ". Default: that of the active pair, or " + credential.KeyTypes()[0] + ".",
		AllowedValues: provider.Allowed(credential.KeyTypes()),
		DisplayAttrs:  &framework.DisplayAttributes{Name: "Key type"},
	}
	return fields
}

// allowedFields are those that say what a key pair may sign for.
func allowedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"allowed_configs": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The names of the credentials that may use the key pair. Default: the one of its own name.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed credentials"},
		},
		"allowed_hosts": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The hosts that what the key pair signs may be sent to, as host or host:port. Default: those of the first credential that uses it.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed hosts"},
		},
		"allowed_audiences": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The values that the aud of assertions may have. Default: any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed audiences"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "The authorities, in PEM, that a credential which uses the key pair may name in its ca_cert. Default: those of the first one that uses it.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
	}
}

// publicFields are the fields of a pair that are read.
func publicFields(prefix, of string, required bool) map[string]*framework.FieldSchema {
	field := func(t framework.FieldType, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: t, Description: fmt.Sprintf(description, of), Required: required}
	}
	return map[string]*framework.FieldSchema{
		prefix + "public_key":   field(framework.TypeString, "The public half of %s, in PEM (SubjectPublicKeyInfo)."),
		prefix + "jwk":          field(framework.TypeMap, "The public half of %s as a JSON Web Key (RFC 7517), whose kid is the key ID."),
		prefix + "key_type":     field(framework.TypeString, "The kind of key of %s."),
		prefix + "key_id":       field(framework.TypeString, "The thumbprint of the public half of %s (RFC 7638, SHA-256)."),
		prefix + "created_time": field(framework.TypeTime, "When %s was made."),
	}
}

// keypairFields are those of keypairData.
func keypairFields() map[string]*framework.FieldSchema {
	fields := publicFields("", "the active pair", true)
	maps.Copy(fields, publicFields(pendingPrefix, "the pending pair (if there is one)", false))
	maps.Copy(fields, allowedFields())
	return fields
}

// pendingPrefix begins the names of the fields that tell of the pending pair.
const pendingPrefix = "pending_"

func (b *backend) keypairExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	return storage.Exists(ctx, req.Storage, storage.KeypairKey(d.Get("name").(string)))
}

func (b *backend) keypairList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := storage.List(ctx, req.Storage, storage.KeypairKey(""))
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) keypairRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	k, err := b.store.Keypair(ctx, req.Storage, d.Get("name").(string))
	if k == nil || err != nil {
		return nil, err
	}
	data, err := keypairData(k)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: data}, nil
}

// keypairData returns what is read of a key pair.
func keypairData(k *credential.Keypair) (map[string]any, error) {
	list := func(values []string) []string { return append([]string{}, values...) }
	data := map[string]any{
		"allowed_configs":   list(k.Configs),
		"allowed_hosts":     list(k.Hosts),
		"allowed_audiences": list(k.Audiences),
		"ca_cert":           k.CACert,
	}
	for prefix, pair := range map[string]*credential.Pair{"": k.Active, pendingPrefix: k.Pending} {
		if pair == nil {
			continue
		}
		publicKey, jwk, err := pair.Public()
		if err != nil {
			return nil, err
		}
		maps.Copy(data, map[string]any{
			prefix + "public_key":   publicKey,
			prefix + "jwk":          jwk,
			prefix + "key_type":     pair.KeyType,
			prefix + "key_id":       pair.KeyID,
			prefix + "created_time": broker.FormatTime(pair.CreatedTime),
		})
	}
	return data, nil
}

func (b *backend) keypairWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	write := credential.KeypairWrite{Operation: operationOf(req), KeyType: d.Get("key_type").(string)}
	for field, list := range map[string]**[]string{
		"allowed_configs": &write.Allowed.Configs, "allowed_hosts": &write.Allowed.Hosts, "allowed_audiences": &write.Allowed.Audiences,
	} {
		if value, given := d.GetOk(field); given {
			*list = new(value.([]string))
		}
	}
	if value, given := d.GetOk("ca_cert"); given {
		write.Allowed.CACert = new(value.(string))
	}
	result, err := b.store.WriteKeypair(ctx, req.Storage, name, write)
	if err != nil {
		return failure(name, err)
	}
	data, err := keypairData(result.Keypair)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: data}
	if result.Dropped != nil {
		resp.AddWarning("the pair that was pending until now, " + result.Dropped.KeyID + ", is gone: if the vendor was given that, give this one instead")
	}
	if result.Generated != nil {
		b.Logger().Info("key pair made", "keypair", name, "key_id", result.Generated.KeyID)
	}
	return resp, nil
}

func (b *backend) keypairDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	if err := b.store.DeleteKeypair(ctx, req.Storage, name); err != nil {
		return failure(name, err)
	}
	return nil, nil
}

const keypairHelpDescription = `
The private half stays in Vault; the public half, as PEM (public_key) or as a JSON Web
Key (jwk), is for the vendor. A credential uses the pair by private_key_source=generated.

A write to a name that has an active pair makes a pending one, for a vendor who takes
days to register a key (pending_public_key, pending_jwk): credentials go on using the
active pair until a write to keypair/<name>/activate. Another write before that makes
another pending pair in the place of the first.

A key pair signs only for the credentials that it was given to (allowed_configs: the one
of its own name, unless you say otherwise), and sends what it signs only to allowed_hosts:
those of the first credential that uses it, unless you say otherwise. A write that names
these fields and no key_type changes them and makes no pair.

A key pair that credentials use cannot be deleted.
`

func (b *backend) pathKeypairActivate() *framework.Path {
	return &framework.Path{
		Pattern:      "keypair/" + framework.GenericNameRegex("name") + "/activate",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			"name": keypairNameField(),
			"client_id": {
				Type:         framework.TypeString,
				Description:  "The client ID that the vendor gave for the pending pair, if it is another. It goes to the credentials that use the key pair.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
			},
			"key_id": {
				Type:         framework.TypeString,
				Description:  "The key_id of the credentials that use the key pair, if they have one and the vendor knows the pending pair by another.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.keypairActivate,
				Summary:                     "Have the pending pair take the active one's place, if the vendor takes it.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "activate", OperationSuffix: "keypair"},
			},
		},
		HelpSynopsis:    "Have the pending pair take the active one's place, if the vendor takes it.",
		HelpDescription: activateHelpDescription,
	}
}

func (b *backend) keypairActivate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	var activation credential.Activation
	for field, value := range map[string]**string{"client_id": &activation.ClientID, "key_id": &activation.KeyID} {
		if text, given := d.GetOk(field); given {
			*value = new(strings.TrimSpace(text.(string)))
		}
	}
	if err := b.store.Activate(ctx, req.Storage, name, activation); err != nil {
		return failure(name, err)
	}
	return nil, nil
}

const activateHelpDescription = `
Each credential that uses the key pair is exchanged with the pending pair first. Only if
the vendor takes it for all of them does it take the active one's place, for all at once,
and the one that was active is gone; else nothing changes, and the active pair goes on
being used.
`
