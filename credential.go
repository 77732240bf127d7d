package tokenbroker

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// configPrefix is where credentials are stored: config/<provider>/<name>.
const configPrefix = "config/"

// configEntry is a credential in storage.
type configEntry struct {
	storage.Format

	// Generation is new with each write, and ends what was known before.
	Generation string `json:"generation"`

	// WriteTime is when a secret field was last given another value, or a key pair took
	// another's place.
	WriteTime time.Time `json:"write_time"`

	// Fields are those that the operator set, secrets included.
	Fields map[string]any `json:"fields"`

	// Verified is what the verifying exchange found. It is part of the same write,
	// so that a refresh token which the vendor replaced on that occasion cannot
	// be lost between two.
	Verified *broker.State `json:"verified,omitempty"`

	// SentTo is where the secrets go (destinations.go).
	SentTo destinations `json:"sent_to,omitempty"`

	// isElsewhere is whether an entry that is to take the stored one's place sends its
	// secrets where that does not (destinations.go).
	isElsewhere bool

	// provider is the name of that under which a stored entry was found.
	provider string

	// stored is the generation of the entry in storage, and pair the one whose private
	// key the credential uses, as far as its allowance goes; if there is none that it can
	// use, pairErr is why (generated_key.go).
	stored    string
	pair      *pair
	allowance allowance
	pairErr   error
}

// settings are the fields that every credential has.
type settings struct {
	RequestTimeout provider.Seconds `json:"request_timeout"`
	CACert         string           `json:"ca_cert"`
	DefaultTTL     provider.Seconds `json:"default_ttl"`
	MaxTTL         provider.Seconds `json:"max_ttl"`

	// KeepaliveInterval is nil where the default is to be used.
	KeepaliveInterval *provider.Seconds `json:"keepalive_interval"`

	note
}

const (
	defaultRequestTimeout = 10 * time.Second
	maxRequestTimeout     = time.Minute
)

// amend makes a new entry of the stored one (nil if there is none) and what was sent.
func amend(op logical.Operation, name string, stored *configEntry, d *framework.FieldData) (*configEntry, error) {
	if stored == nil {
		stored = &configEntry{Fields: map[string]any{}}
	}
	fields, err := merge(op, stored.Fields, d)
	if err != nil {
		return nil, err
	}
	next, err := newEntry(fields, stored.WriteTime)
	if err != nil {
		return nil, err
	}
	used := keypairName(name, fields)
	isNew := used != "" && used != keypairName(name, stored.Fields)
	for field, schema := range d.Schema {
		isNew = isNew || isSecret(schema) && fields[field] != nil && !reflect.DeepEqual(fields[field], stored.Fields[field])
	}
	if isNew {
		next.WriteTime = time.Now().Round(0).UTC()
	}
	return next, nil
}

func newEntry(fields map[string]any, writeTime time.Time) (*configEntry, error) {
	generation, err := uuid.GenerateUUID()
	if err != nil {
		return nil, err
	}
	return &configEntry{Generation: generation, WriteTime: writeTime, Fields: fields}, nil
}

// last is what is known of a stored credential. What belongs to another write says
// nothing of it.
func (c *configEntry) last(known *broker.State) *broker.State {
	switch {
	case c == nil:
		return nil
	case known != nil && known.Generation == c.Generation:
		return known
	}
	return c.Verified
}

// lastGrant is the grant to exchange an entry with that is to take the stored one's
// place. A refresh token that the vendor gave in place of the stored one lives on,
// unless the operator has just given another. How the client proved itself is found out
// anew: it may be another vendor's endpoint now.
func (c *configEntry) lastGrant(stored *configEntry, known *broker.State) provider.Grant {
	if stored == nil || known == nil || known.Grant.Derived || !c.sameLine(stored) {
		return provider.Grant{}
	}
	grant := known.Grant
	grant.AuthStyle = ""
	return grant
}

// answered is the state of the stored credential with what came of exchanging the entry
// that is to take its place: the refresh token that the vendor gave in place of the one in
// use, and the end of the token that readers have, with a vendor who has one at a time. It
// is nil if neither is the case.
func (c *configEntry) answered(stored *configEntry, known *broker.State) *broker.State {
	if stored == nil || known == nil {
		return nil
	}
	next := known
	if c.sameLine(stored) && c.Verified.Grant != c.lastGrant(stored, known) {
		next = next.Granted(c.Verified.Grant)
	}
	if c.Verified.EndsOthers() {
		next = next.Ended()
	}
	if next == known {
		return nil
	}
	return next
}

// sameLine is whether two entries have the refresh token in common that the vendor
// may have replaced since. What one vendor gave in place of it is not sent to another.
func (c *configEntry) sameLine(other *configEntry) bool {
	return !c.isElsewhere && c.Fields["refresh_token"] != nil && reflect.DeepEqual(c.Fields["refresh_token"], other.Fields["refresh_token"])
}

// merge lays what was sent over the stored fields, each in the type of its schema.
// An empty value, like null in a patch, clears its field. A map takes the place of the
// stored one; in a patch it is merged with it, and null removes a name.
func merge(op logical.Operation, stored map[string]any, d *framework.FieldData) (map[string]any, error) {
	isPatch := op == logical.PatchOperation
	stored = maps.Clone(stored)
	for name := range d.Raw {
		if schema := d.Schema[name]; !isPatch && schema != nil && schema.Type == framework.TypeKVPairs {
			delete(stored, name)
		}
	}
	merged, err := framework.HandlePatchOperation(d, stored, func(input map[string]any) (map[string]any, error) {
		for name, value := range input {
			if text, ok := value.(string); ok {
				input[name] = strings.TrimSpace(text)
			}
			if raw, isMap := d.Raw[name].(map[string]any); isMap && isPatch {
				input[name] = raw // with its nulls
			}
		}
		for name, value := range d.Raw {
			if value == nil || value == "" {
				input[name] = nil // which the framework takes for a zero, or passes over
			}
		}
		maps.DeleteFunc(input, func(field string, _ any) bool { return !isStored(field) })
		return input, nil
	})
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(merged, &fields); err != nil {
		return nil, err
	}
	for name, value := range fields {
		list, isList := value.([]any)
		if isList {
			if name == "scope" {
				list = words(list)
			}
			list = compact(list)
			fields[name] = list
		}
		pairs, isMap := value.(map[string]any)
		if value == "" || isList && len(list) == 0 || isMap && len(pairs) == 0 {
			delete(fields, name)
		}
	}
	return fields, nil
}

// words are those of a list of texts: "a b,c" is a, b and c, as RFC 6749 §3.3 writes scopes.
func words(list []any) []any {
	var all []any
	for _, value := range list {
		text, ok := value.(string)
		if !ok {
			all = append(all, value)
			continue
		}
		for word := range strings.FieldsSeq(text) {
			all = append(all, word)
		}
	}
	return all
}

// compact is a list without what is empty and what it has already: "a,b,a," is a and b.
func compact(list []any) []any {
	var kept []any
	for _, value := range list {
		if value != "" && !slices.Contains(kept, value) {
			kept = append(kept, value)
		}
	}
	return kept
}

// refuseTaken refuses a name that a role bears, or a credential of another provider.
func refuseTaken(ctx context.Context, s logical.Storage, providerName, name string) error {
	isRole, err := storage.Exists(ctx, s, storage.RoleKey(name))
	if err != nil {
		return err
	}
	if isRole {
		return provider.Errorf(provider.Invalid, "name: %q is the name of %s%s; choose another, or delete the role first", name, rolesPrefix, name)
	}
	owner, err := ownerOf(ctx, s, name)
	if err != nil {
		return err
	}
	if owner != "" && owner != providerName {
		return provider.Errorf(provider.Invalid, "name: %q belongs to %s; choose another, or delete that credential first", name, configKey(owner, name))
	}
	return nil
}

// ownerOf is the provider under which a name is stored, if any. It does not decode
// the entry, so that one which cannot be decoded can still be deleted.
func ownerOf(ctx context.Context, s logical.Storage, name string) (string, error) {
	for _, p := range providers {
		isStored, err := storage.Exists(ctx, s, storage.CredentialKey(p.Name(), name))
		if err != nil {
			return "", err
		}
		if isStored {
			return p.Name(), nil
		}
	}
	return "", nil
}

// Credential opens the stored credential of a name; nil if there is none.
func (b *backend) Credential(ctx context.Context, s logical.Storage, name string) (*broker.Credential, error) {
	p, stored, err := findConfig(ctx, s, name)
	if err != nil || stored == nil {
		return nil, err
	}
	return b.open(p, name, stored)
}

// findConfig is the credential of a name as it is now, whatever its provider; nil if there
// is none.
func findConfig(ctx context.Context, s logical.Storage, name string) (provider.Provider, *configEntry, error) {
	for _, p := range providers {
		stored, err := getConfig(ctx, s, p.Name(), name)
		if err != nil || stored != nil {
			return p, stored, err
		}
	}
	return nil, nil, nil
}

func (b *backend) open(p provider.Provider, name string, stored *configEntry) (*broker.Credential, error) {
	given, err := stored.vendorFields()
	if err != nil {
		return nil, err
	}
	fields, err := json.Marshal(given)
	if err != nil {
		return nil, err
	}
	common := settings{RequestTimeout: provider.Seconds(defaultRequestTimeout / time.Second)}
	if err := provider.DecodeFields(fields, &common); err != nil {
		return nil, err
	}
	if timeout := common.RequestTimeout.Duration(); timeout < time.Second || timeout > maxRequestTimeout {
		return nil, provider.Errorf(provider.Invalid, "request_timeout: must be from 1s to %s", maxRequestTimeout)
	}
	expires, err := common.check()
	if err != nil {
		return nil, err
	}
	client, err := provider.NewClient(provider.ClientOptions{
		Timeout:   common.RequestTimeout.Duration(),
		CACert:    common.CACert,
		Transport: b.options.Transport,
		Dial:      b.options.Dial,
		Clocks:    &b.clocks,
	})
	if err != nil {
		return nil, err
	}
	vendor, err := p.Open(provider.Settings{Fields: fields, WriteTime: stored.WriteTime, Thumbprint: stored.thumbprint(), Client: client})
	if err != nil {
		return nil, stored.ofKeypair(name, err)
	}
	if stored.pair != nil {
		if err := stored.allowance.check(keypairName(name, stored.Fields), name, destinationsOf(vendor, common.CACert)); err != nil {
			return nil, err
		}
	}
	keepalive, err := keepaliveInterval(common.KeepaliveInterval, vendor.Idle())
	if err != nil {
		return nil, err
	}
	return &broker.Credential{
		Name:       name,
		Provider:   p.Name(),
		Generation: stored.Generation,
		WriteTime:  stored.WriteTime,
		Expires:    expires,
		About:      common.Description,
		TTL:        provider.TTL{Default: common.DefaultTTL.Duration(), Max: common.MaxTTL.Duration()},
		Keepalive:  keepalive,
		Secrets:    secretsOf(p, given),
		Vendor:     vendor,
		Scope:      provider.JoinScope(vendor.Scope()),
		Verified:   stored.Verified,
	}, nil
}

func configKey(providerName, name string) string {
	return configPrefix + providerName + "/" + name
}

// storedConfig is what is stored as the credential of a name; nil if there is none.
func storedConfig(ctx context.Context, s logical.Storage, providerName, name string) (*configEntry, error) {
	const fix = "delete it and write the credential again"
	entry, err := storage.Get[configEntry](ctx, s, storage.CredentialKey(providerName, name), fix)
	if err != nil || entry == nil {
		return nil, err
	}
	entry.provider = providerName
	if !entry.hasFieldsOf(providerName) {
		return nil, storage.Damaged(storage.CredentialKey(providerName, name), fix)
	}
	return entry, nil
}

// getConfig is the credential of a name as it is now (resolve); nil if there is none.
func getConfig(ctx context.Context, s logical.Storage, providerName, name string) (*configEntry, error) {
	entry, err := storedConfig(ctx, s, providerName, name)
	if err != nil || entry == nil {
		return nil, err
	}
	return entry.resolve(ctx, s, name)
}

// Names are the names of all credentials.
func (b *backend) Names(ctx context.Context, s logical.Storage) ([]string, error) {
	var names []string
	for _, p := range providers {
		keys, err := storage.List(ctx, s, storage.CredentialKey(p.Name(), ""))
		if err != nil {
			return nil, err
		}
		names = append(names, keys...)
	}
	slices.Sort(names)
	return names, nil
}

func putConfig(ctx context.Context, s logical.Storage, providerName, name string, entry *configEntry) error {
	return storage.Retry(ctx, func() error { return storage.Put(ctx, s, storage.CredentialKey(providerName, name), entry) })
}
