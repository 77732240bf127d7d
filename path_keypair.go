package tokenbroker

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathKeypair() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.keypairWrite,
		Summary:                     "Generate a key pair, or a pending pair if the name has an active one.",
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
			HelpDescription: withExample("key_info holds the key_type and the key_id of the active pair of each name, whether there is a pending pair, whether the keys are published, and when a schedule rotates them. Read the public keys at keypair/<name>.", "vault list -detailed kensho/keypair"),
		},
		{
			Pattern:      "keypair/" + apipath.NamePattern("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Key pair"},
			Fields:       keypairWriteFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation: &framework.PathOperation{
					Callback:                    b.keypairRead,
					Summary:                     "Read the public keys of the active and the pending pair.",
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
			ExistenceCheck: b.keypairExists,
			HelpSynopsis:   "Generate a key pair whose private key never leaves Vault.",
			HelpDescription: withExample(keypairHelpDescription, "vault write -f kensho/keypair/batch",
				"vault write kensho/keypair/batch publish=true issuer=https://vault.example.com/v1/kensho/jwks/batch rotation_period=90d"),
		},
		b.pathKeypairActivate(),
	}
}

func keypairNameField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the key pair. The credential with the same name uses it by default.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
	}
}

func keypairWriteFields() map[string]*framework.FieldSchema {
	fields := allowedFields()
	maps.Copy(fields, publicationFields())
	fields["name"] = keypairNameField()
	fields["key_type"] = &framework.FieldSchema{
		Type:          framework.TypeString,
		Description:   "Type of the key to generate. Default: the type of the active pair, or " + credential.KeyTypes()[0] + ".",
		AllowedValues: provider.Allowed(credential.KeyTypes()),
		DisplayAttrs:  &framework.DisplayAttributes{Name: "Key type"},
	}
	return fields
}

// allowedFields returns the fields that restrict what a key pair signs for.
func allowedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"allowed_configs": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Names of the credentials that may use the key pair. Default: the credential with its name.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed credentials"},
		},
		"allowed_clients": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Names of the clients (clients/<name>) that may use the key pair. Default: none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed clients"},
		},
		"allowed_hosts": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Hosts to which signed assertions may be sent, as host or host:port. Default: the hosts of the first credential that uses the key pair.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed hosts"},
		},
		"allowed_audiences": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Allowed values of the aud claim of assertions. Default: any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed audiences"},
		},
		"allowed_subjects": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Allowed values of the sub claim of assertions. Default: any; if the issuer of the key pair is the iss, only the path of the credential.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed subjects"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "Certificate authorities, in PEM, that the ca_cert of a credential using the key pair may contain. Default: those of the first such credential.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
	}
}

// publicFields returns the response fields of one pair.
func publicFields(prefix, of string, required bool) map[string]*framework.FieldSchema {
	field := func(t framework.FieldType, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: t, Description: fmt.Sprintf(description, of), Required: required}
	}
	return map[string]*framework.FieldSchema{
		prefix + "public_key":   field(framework.TypeString, "Public key of %s, in PEM (SubjectPublicKeyInfo)."),
		prefix + "jwk":          field(framework.TypeMap, "Public key of %s as a JSON Web Key (RFC 7517); kid is the key ID."),
		prefix + "key_type":     field(framework.TypeString, "Key type of %s."),
		prefix + "key_id":       field(framework.TypeString, "Thumbprint of the public key of %s (RFC 7638, SHA-256)."),
		prefix + "created_time": field(framework.TypeTime, "When %s was generated."),
	}
}

// keypairFields returns the fields of keypairData.
func keypairFields() map[string]*framework.FieldSchema {
	fields := publicFields("", "the active pair", true)
	maps.Copy(fields, publicFields(pendingPrefix, "the pending pair (if any)", false))
	for field, schema := range allowedFields() {
		fields[field] = described(schema, "The stored value; empty if there is none.")
	}
	maps.Copy(fields, publicationDataFields())
	return fields
}

// pendingPrefix is the prefix of the response fields of the pending pair.
const pendingPrefix = "pending_"

func (b *backend) keypairExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	return storage.Exists(ctx, req.Storage, storage.KeypairKey(d.Get("name").(string)))
}

func (b *backend) keypairList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := storage.List(ctx, req.Storage, storage.KeypairKey(""))
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, name := range names {
		switch k, err := b.store.ReadKeypair(ctx, req.Storage, name); {
		case storage.IsError(err):
			return nil, err
		case err != nil || k == nil: // keypair/<name> has the error
		default:
			info[name] = map[string]any{"key_type": k.Active.KeyType, "key_id": k.Active.KeyID, "pending": k.Pending != nil, "publish": k.Publication.Publish}
			if next := k.Publication.NextRotation(time.Now()); !next.IsZero() {
				info[name].(map[string]any)["next_vault_rotation"] = broker.FormatTime(next)
				info[name].(map[string]any)["rotation_failures"] = k.Publication.Failures
			}
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

func (b *backend) keypairRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	k, err := b.store.ReadKeypair(ctx, req.Storage, d.Get("name").(string))
	if k == nil || err != nil {
		return nil, err
	}
	data, err := keypairData(d.Get("name").(string), k)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: data}, nil
}

// keypairData returns the response data of a key pair.
func keypairData(name string, k *credential.Keypair) (map[string]any, error) {
	list := func(values []string) []string { return append([]string{}, values...) }
	data := map[string]any{
		"allowed_configs":   list(k.Configs),
		"allowed_clients":   list(k.Clients),
		"allowed_hosts":     list(k.Hosts),
		"allowed_audiences": list(k.Audiences),
		"allowed_subjects":  list(k.Subjects),
		"ca_cert":           k.CACert,
	}
	maps.Copy(data, publicationData(name, k))
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
	write := credential.KeypairRequest{Operation: operationOf(req), KeyType: d.Get("key_type").(string), Publication: publicationRequest(d)}
	for field, list := range map[string]**[]string{
		"allowed_configs": &write.Allowed.Configs, "allowed_clients": &write.Allowed.Clients,
		"allowed_hosts": &write.Allowed.Hosts, "allowed_audiences": &write.Allowed.Audiences,
		"allowed_subjects": &write.Allowed.Subjects,
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
	data, err := keypairData(name, result.Keypair)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: data}
	if result.Dropped != nil {
		resp.AddWarning("the pending pair " + result.Dropped.KeyID + " was replaced; if it is registered at the vendor, register the new one instead")
	}
	if result.Generated != nil {
		b.Logger().Info("key pair generated", "keypair", name, "key_id", result.Generated.KeyID)
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
The private key stays in Vault. Register the public key at the vendor, as PEM
(public_key) or as a JSON Web Key (jwk). A credential uses the key pair with
private_key_source=generated.

A write to a name with an active pair generates a pending pair (pending_public_key,
pending_jwk). Credentials use the active pair until a write to keypair/<name>/activate,
so the vendor can take days to register the new key. Another write replaces the pending
pair.

A key pair signs only for the credentials in allowed_configs, by default the one with
its own name, and for those that use a client in allowed_clients. The assertions go only to allowed_hosts, by default the hosts of the first
credential that uses the key pair.

publish=true publishes the public keys at jwks/<name>, for vendors that fetch them. With
rotation_period or rotation_schedule, the engine then rotates the key pair by itself: it
publishes the next key publish_ahead before it signs, and keeps the last one published
until what it has signed has expired.

A write that gives some of these fields and no key_type changes them and generates no
pair.

A key pair that credentials or clients use cannot be deleted.
`
