package tokenbroker

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
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
			Pattern:      keypairPrefix + "?$",
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
			Pattern:      keypairPrefix + framework.GenericNameRegex("name"),
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
	fields := allowanceFields()
	fields["name"] = keypairNameField()
	fields["key_type"] = &framework.FieldSchema{
		Type:          framework.TypeString,
		Description:   "The kind of key to make: " + strings.Join(keyTypeNames(), ", ") + ". Default: that of the active pair, or " + keyTypes[0].name + ".",
		AllowedValues: keyTypeValues(),
		DisplayAttrs:  &framework.DisplayAttributes{Name: "Key type"},
	}
	return fields
}

func keyTypeValues() []any {
	values := make([]any, len(keyTypes))
	for i, t := range keyTypes {
		values[i] = t.name
	}
	return values
}

// publicFields are those of pair.public.
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

// keypairFields are those of keypair.public.
func keypairFields() map[string]*framework.FieldSchema {
	fields := publicFields("", "the active pair", true)
	maps.Copy(fields, publicFields(pendingPrefix, "the pending pair (if there is one)", false))
	maps.Copy(fields, allowanceFields())
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
	k, err := getKeypair(ctx, req.Storage, d.Get("name").(string))
	if k == nil || err != nil {
		return nil, err
	}
	data, err := k.public()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) keypairWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	made, err := b.newPair(ctx, req.Storage, name, d)
	if err != nil {
		return failure(name, err)
	}
	resp := &logical.Response{}
	err = b.broker.Exclusive(ctx, func() error {
		k, err := getKeypair(ctx, req.Storage, name)
		if err == nil {
			err = refuseRaced(req.Operation, keypairPrefix+name, k != nil)
		}
		if err != nil {
			return err
		}
		switch {
		case k == nil && made == nil: // somebody has deleted it
			return broker.ErrBusy
		case k == nil:
			k = &keypair{Active: made}
			k.allowance, _, err = k.amended(d)
		default:
			err = b.amendKeypair(ctx, req.Storage, name, k, made, d, resp)
		}
		if err != nil {
			return err
		}
		if resp.Data, err = k.public(); err != nil {
			return err
		}
		return putKeypair(ctx, req.Storage, name, k)
	}, keypairPrefix+name)
	if err != nil {
		return failure(name, err)
	}
	if made != nil {
		b.Logger().Info("key pair made", "keypair", name, "key_id", made.KeyID)
	}
	return resp, nil
}

// newPair makes the pair that a write asks for; nil if it changes only what an existing
// key pair may sign for.
func (b *backend) newPair(ctx context.Context, s logical.Storage, name string, d *framework.FieldData) (*pair, error) {
	typeName := d.Get("key_type").(string)
	_, changesAllowance, err := allowance{}.amended(d)
	if err != nil {
		return nil, err
	}
	k, err := getKeypair(ctx, s, name)
	switch {
	case err != nil:
		return nil, err
	case typeName == "" && k != nil && changesAllowance:
		return nil, nil
	case typeName == "" && k != nil:
		typeName = k.Active.KeyType
	case typeName == "":
		typeName = keyTypes[0].name
	}
	return makePair(typeName)
}

// amendKeypair changes a key pair that is stored: it gets a pair that is to take the active
// one's place, if one was made, and what the write says of whom it may sign for.
func (b *backend) amendKeypair(ctx context.Context, s logical.Storage, name string, k *keypair, made *pair, d *framework.FieldData, resp *logical.Response) error {
	users, err := usersOf(ctx, s, name)
	if err != nil {
		return err
	}
	if err := users.resolve(ctx, s); err != nil {
		return err
	}
	changed, _, err := k.amended(d)
	if err != nil {
		return err
	}
	if len(changed.Hosts) == 0 {
		changed = changed.pinned(b.sentToBy(users))
	}
	if err := b.refuseUseless(users, made, changed); err != nil {
		return err
	}
	k.Activated, k.allowance = users.unsettled(k), changed
	if made == nil {
		return nil
	}
	if k.Pending != nil {
		resp.AddWarning("the pair that was pending until now, " + k.Pending.KeyID + ", is gone: if the vendor was given that, give this one instead")
	}
	k.Pending = made
	return nil
}

// refuseUseless refuses a pair that a credential could not use when it is activated, and
// an allowance that it could not use it with, though it can use the active one as it is.
func (b *backend) refuseUseless(us users, made *pair, changed allowance) error {
	for _, u := range us {
		if _, err := b.open(u.provider, u.name, u.entry); err != nil {
			continue
		}
		next := *u.entry
		next.allowance = changed
		if _, err := b.open(u.provider, u.name, &next); err != nil {
			return provider.Errorf(provider.Invalid, "%s uses the key pair: change that first, or allow what it does: %s", u.path(), err)
		}
		if made == nil {
			continue
		}
		next.pair = made
		if _, err := b.open(u.provider, u.name, &next); err != nil {
			return provider.Errorf(provider.Invalid, "key_type: %s is not for %s: %s", made.KeyType, u.path(), err)
		}
	}
	return nil
}

func (b *backend) keypairDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	// No credential takes it up meanwhile.
	err := b.broker.Exclusive(ctx, func() error {
		users, err := usersOf(ctx, req.Storage, name)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return provider.Errorf(provider.Invalid, "%s%s is used by credentials: delete %s first, or give them another key", keypairPrefix, name, users)
		}
		return storage.Delete(ctx, req.Storage, storage.KeypairKey(name))
	}, keypairPrefix+name)
	if err != nil {
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
