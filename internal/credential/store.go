// Package credential keeps what operators store: credentials of vendors, and the key pairs that
// sign for them. The two are one package because they are one invariant: an activation changes a
// key pair and the credentials that use it in one write, so that the entry of a credential may be
// inside the entry of its key pair. The package knows no path and no request of Vault.
package credential

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Options say how to reach the vendors.
type Options struct {
	// Transport sends the requests to the vendors; nil is HTTP.
	Transport http.RoundTripper

	// Dial opens the connections to the vendors; nil is the network.
	Dial provider.DialFunc

	// Logger returns where to log.
	Logger func() hclog.Logger
}

// A Store is what operators have stored in one mount. It implements broker.Source.
type Store struct {
	vendors   []provider.Provider
	options   Options
	clocks    provider.Clocks
	rotations rotations
	broker    *broker.Broker
}

// New returns a Store of credentials of some vendors, and the broker of their tokens.
func New(vendors []provider.Provider, options Options, observer broker.Observer) (*Store, *broker.Broker) {
	st := &Store{vendors: vendors, options: options, rotations: rotations{grants: map[string]rotation{}}}
	st.broker = broker.New(st, observer)
	return st, st.broker
}

// Logger is part of broker.Source.
func (st *Store) Logger() hclog.Logger { return st.options.Logger() }

// Path returns where an operator writes a credential.
func Path(vendor, name string) string { return "config/" + vendor + "/" + name }

// KeypairPath returns where an operator writes a key pair.
func KeypairPath(name string) string { return "keypair/" + name }

// Names returns the names of all credentials. It is part of broker.Source.
func (st *Store) Names(ctx context.Context, s logical.Storage) ([]string, error) {
	var names []string
	for _, p := range st.vendors {
		keys, err := storage.List(ctx, s, storage.CredentialKey(p.Name(), ""))
		if err != nil {
			return nil, err
		}
		names = append(names, keys...)
	}
	slices.Sort(names)
	return names, nil
}

// Credential returns the credential of a name, ready to be exchanged; nil if there is none. It is
// part of broker.Source.
func (st *Store) Credential(ctx context.Context, s logical.Storage, name string) (*broker.Credential, error) {
	for _, p := range st.vendors {
		c, err := st.get(ctx, s, p, name)
		if err != nil {
			return nil, err
		}
		if c != nil {
			return st.open(c)
		}
	}
	return nil, nil
}

// VendorOf returns the vendor of the credential of a name; "" if there is none. It does not decode
// the entry: one that cannot be decoded can still be deleted.
func (st *Store) VendorOf(ctx context.Context, s logical.Storage, name string) (string, error) {
	for _, p := range st.vendors {
		exists, err := storage.Exists(ctx, s, storage.CredentialKey(p.Name(), name))
		if err != nil || exists {
			return p.Name(), err
		}
	}
	return "", nil
}

// A stored is a credential as it is now: as its own entry has it, or as an activation of its key
// pair has changed it since.
type stored struct {
	*Entry
	vendor provider.Provider
	name   string

	// generation is that of its own entry.
	generation string

	key signingKey
}

// path returns where an operator writes the credential; "config/…" of none.
func (c *stored) path() string { return Path(c.vendor.Name(), c.name) }

// storageKey returns the key of the credential's own entry.
func (c *stored) storageKey() string { return storage.CredentialKey(c.vendor.Name(), c.name) }

// getOwn returns a credential as its own entry has it; nil if there is none.
func (st *Store) getOwn(ctx context.Context, s logical.Storage, p provider.Provider, name string) (*stored, error) {
	const fix = "delete it and write the credential again"
	key := storage.CredentialKey(p.Name(), name)
	entry, err := storage.Get[Entry](ctx, s, key, fix)
	if err != nil || entry == nil {
		return nil, err
	}
	if !entry.hasFieldsOf(p) {
		return nil, storage.Damaged(key, fix)
	}
	return &stored{Entry: entry, vendor: p, name: name, generation: entry.Generation}, nil
}

// get returns a credential as it is now; nil if there is none.
func (st *Store) get(ctx context.Context, s logical.Storage, p provider.Provider, name string) (*stored, error) {
	c, err := st.getOwn(ctx, s, p, name)
	if err != nil || c == nil {
		return nil, err
	}
	return c, c.resolve(ctx, s)
}

func (c *stored) put(ctx context.Context, s logical.Storage) error {
	return storage.Retry(ctx, func() error { return storage.Put(ctx, s, c.storageKey(), c.Entry) })
}

// Settings are what is read of a credential.
type Settings struct {
	Fields  map[string]any // as they are stored, secrets included
	Secrets []string       // the names of the secret ones, sorted

	// Keepalive is the interval where the operator has not set one; nil if they have, or if the
	// credential cannot be used.
	Keepalive *time.Duration
}

// Read returns the settings of a credential; nil if there is none.
func (st *Store) Read(ctx context.Context, s logical.Storage, p provider.Provider, name string) (*Settings, error) {
	c, err := st.get(ctx, s, p, name)
	if err != nil || c == nil {
		return nil, err
	}
	settings := &Settings{Fields: c.Fields, Secrets: []string{}}
	for _, field := range sortedKeys(c.Fields) {
		if IsSecret(fieldsOf(p)[field]) {
			settings.Secrets = append(settings.Secrets, field)
		}
	}
	if c.Fields["keepalive_interval"] == nil {
		if credential, err := st.open(c); err == nil {
			settings.Keepalive = &credential.Keepalive
		}
	}
	return settings, nil
}
