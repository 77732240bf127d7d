package tokenbroker

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathConfig() []*framework.Path {
	paths := []*framework.Path{{
		Pattern:      configPrefix + "?$",
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
		Pattern:      configPrefix + p.Name() + "/?$",
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

// credentialFields are all those of a provider's credentials.
func credentialFields(p provider.Provider) map[string]*framework.FieldSchema {
	fields := p.Fields()
	maps.Copy(fields, commonFields())
	maps.Copy(fields, noteFields())
	if fields["private_key"] != nil {
		maps.Copy(fields, generatedKeyFields())
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
		Pattern:      configPrefix + p.Name() + "/" + framework.GenericNameRegex("name"),
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

func commonFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeNameString,
			Description:  "The credential's name, which creds/<name> is read by.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"request_timeout": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long one request to the vendor may take, from 1s to 1m.",
			Default:      int(defaultRequestTimeout.Seconds()),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Request timeout"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "The authorities to trust instead of the system's, in PEM: for a proxy that inspects TLS, or a private CA.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
		"default_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "The lifetime to assume of a token where the vendor, the token and the provider's rule are all silent, or the vendor states what is no lifetime, such as 0.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Default TTL"},
		},
		"max_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "The longest lifetime to believe of a token, whatever the vendor states: for a vendor whose tokens expire earlier than it says. Default: none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum TTL"},
		},
		"keepalive_interval": {
			Type:         framework.TypeDurationSecond,
			Description:  "How often to exchange a credential that expires from disuse, though nobody reads it: a day, or half the time after which it expires if that is less. 0 turns it off.",
			Default:      int(defaultKeepalive.Seconds()),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Keepalive interval"},
		},
		"verify": {
			Type:         framework.TypeBool,
			Description:  "Whether to exchange the credential once before storing it. It is not stored itself.",
			Default:      true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Verify"},
		},
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
		stored, err := getConfig(ctx, req.Storage, p.Name(), d.Get("name").(string))
		if stored == nil || err != nil {
			return nil, err
		}
		values := &framework.FieldData{Raw: stored.Fields, Schema: d.Schema}
		data := map[string]any{}
		secrets := []string{}
		for field, schema := range d.Schema {
			_, set := stored.Fields[field]
			switch {
			case isSecret(schema):
				if set {
					secrets = append(secrets, field)
				}
			case !isStored(field):
			case set || schema.Default != nil:
				data[field] = values.Get(field)
			}
		}
		if _, set := stored.Fields["keepalive_interval"]; !set {
			if credential, err := b.open(p, d.Get("name").(string), stored); err == nil {
				data["keepalive_interval"] = int(credential.Keepalive / time.Second)
			}
		}
		slices.Sort(secrets)
		data["secrets_set"] = secrets
		return &logical.Response{Data: data}, nil
	}
}

func (b *backend) configWrite(p provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		name := d.Get("name").(string)
		err := b.withKeypair(ctx, req, p, name, d, func(used string) error {
			return b.broker.Change(ctx, req.Storage, name, func(ctx context.Context, known *broker.State) (*broker.State, error) {
				return b.replace(ctx, req, p, name, used, known, d)
			})
		})
		if err != nil {
			return failure(name, err)
		}
		warnings := b.outgrown(ctx, req.Storage, name)
		if len(warnings) == 0 {
			return nil, nil
		}
		return &logical.Response{Warnings: warnings}, nil
	}
}

// replace checks, verifies and stores what was sent, which is to use a key pair or none.
// If that fails, it returns what the vendor answered all the same for the credential that
// stays, if anything.
func (b *backend) replace(ctx context.Context, req *logical.Request, p provider.Provider, name, used string, known *broker.State, d *framework.FieldData) (*broker.State, error) {
	path := configKey(p.Name(), name)
	stored, err := getConfig(ctx, req.Storage, p.Name(), name)
	if err != nil {
		return nil, err
	}
	if stored == nil && req.Operation == logical.PatchOperation {
		return nil, logical.CodedError(http.StatusNotFound, fmt.Sprintf("%s: there is no such credential to patch", path))
	}
	if err := refuseTaken(ctx, req.Storage, p.Name(), name); err != nil {
		return nil, err
	}
	if err := refuseRaced(req.Operation, path, stored != nil); err != nil {
		return nil, err
	}
	known = stored.last(known)
	next, err := amend(req.Operation, name, stored, d)
	if err != nil {
		return nil, err
	}
	if keypairName(name, next.Fields) != used { // somebody else has written it
		return nil, broker.ErrBusy
	}
	if next, err = next.resolve(ctx, req.Storage, name); err != nil {
		return nil, err
	}
	credential, err := b.open(p, name, next)
	if err != nil {
		return nil, err
	}
	to := destinationsOf(credential.Vendor, caCertOf(next))
	if err := b.refuseRedirected(p, name, stored, next, to, d); err != nil {
		return nil, err
	}
	if stored != nil && isOfSettings(d) {
		return nil, next.settle(ctx, req.Storage, p.Name(), name, stored)
	}
	if err := b.refuseRegranted(p, name, stored, credential, d); err != nil {
		return nil, err
	}
	next.SentTo, next.isElsewhere = to, stored != nil && !to.within(b.sentTo(p, name, stored))
	last, isNew := next.lastGrant(stored, known), stored == nil || !next.sameLine(stored)
	if isNew {
		last = b.unstored.grant(path, next)
	}
	if d.Get("verify").(bool) {
		next.Verified, err = b.broker.Verify(ctx, req.Storage, name, credential, last)
	} else {
		next.Verified = broker.Unverified(credential, last)
	}
	// What the vendor replaced meanwhile may be the refresh token that is in use.
	answered := next.answered(stored, known)
	grant := next.Verified.Grant
	held := isNew && !grant.Derived && grant.RefreshToken != last.RefreshToken
	if held {
		b.unstored.keep(path, next)
	}
	if err != nil {
		nothing := "nothing was stored at " + path
		return answered, &verifyError{error: err, outcome: nothing, unchecked: nothing + "; verify=false stores the credential unchecked"}
	}
	if err := pin(ctx, req.Storage, used, next, to); err != nil {
		return answered, err
	}
	if err := putConfig(ctx, req.Storage, p.Name(), name, next); err != nil {
		if held {
			err = fmt.Errorf("%w; the vendor has replaced the refresh token that was given, and what it gave is held in memory alone: write the same again soon, within an hour", err)
		}
		return answered, err
	}
	if isNew { // another's is still to be written
		b.unstored.drop(path)
	}
	// What was known before is void by its generation; that it also goes away is
	// tidiness, which must not fail a write that has been done.
	if err := broker.DeleteState(ctx, req.Storage, name); err != nil {
		b.Logger().Warn("cannot delete what was known of the previous credential", "name", name, "error", err)
	}
	return nil, nil
}

func (b *backend) configDelete(p provider.Provider) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		name := d.Get("name").(string)
		// One that cannot be decoded can be deleted all the same.
		var used string
		stored, err := storedConfig(ctx, req.Storage, p.Name(), name)
		switch {
		case storage.IsError(err):
			return failure(name, err)
		case err == nil && stored != nil:
			used = keypairName(name, stored.Fields)
		}
		err = b.alone(ctx, used, func() error { return b.deleteConfig(ctx, req.Storage, p, name, used) })
		b.names.forget(name)
		if err != nil {
			return failure(name, err)
		}
		b.events.Forget(name)
		return nil, nil
	}
}

// deleteConfig deletes a credential, which uses a key pair or none.
func (b *backend) deleteConfig(ctx context.Context, s logical.Storage, p provider.Provider, name, used string) error {
	return b.broker.Remove(ctx, s, name, func(ctx context.Context, known *broker.State) (*broker.State, error) {
		// The state of the name may be another provider's.
		switch owner, err := ownerOf(ctx, s, name); {
		case err != nil:
			return nil, err
		case owner != "" && owner != p.Name():
			return nil, broker.ErrUnchanged
		}
		if err := refuseUsed(ctx, s, p.Name(), name); err != nil {
			return nil, err
		}
		// One that cannot be opened can be deleted all the same.
		credential, err := b.Credential(ctx, s, name)
		if storage.IsError(err) {
			return nil, err
		}
		if err := b.dropDedicated(ctx, s, name); err != nil {
			return nil, err
		}
		if err := storage.Delete(ctx, s, storage.CredentialKey(p.Name(), name)); err != nil {
			return nil, err
		}
		b.unstored.drop(configKey(p.Name(), name))
		if used != "" {
			b.forgetActivated(ctx, s, used, name)
		}
		err = broker.DeleteState(ctx, s, name)
		b.broker.Drop(ctx, credential, known)
		return nil, err
	})
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
