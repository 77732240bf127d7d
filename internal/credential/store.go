// Package credential stores and changes what operators write: credentials of vendors, and the key
// pairs that sign for them. Both are in one package because an activation changes a key pair and
// the credentials that use it in a single write, so that a credential's entry may be inside the
// entry of its key pair. The package does not depend on Vault's requests. It knows no path; its
// errors name those that internal/apipath returns.
package credential

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Options configure a Store.
type Options struct {
	// BuiltIn returns the engine's own vendor with a name; nil if there is none.
	BuiltIn func(name string) provider.Provider

	// Transport sends requests to vendors. If nil, the default HTTP transport is used.
	Transport http.RoundTripper

	// Dial opens connections to vendors. If nil, the network is used.
	Dial provider.DialFunc

	// IdentityToken requests an identity token of the server.
	IdentityToken provider.IdentityTokenFunc

	// Ended reports the end of a consent on another device; err is nil or a *ConsentError.
	Ended func(name string, err error)

	// Rotated reports the end of each rotation; nil for no reports.
	Rotated func(RotationReport)

	// Logger returns the logger to use at this moment.
	Logger func() hclog.Logger
}

// A Store reads and writes the credentials and key pairs of one mount. It implements broker.Source
// and is safe for concurrent use.
type Store struct {
	options        Options
	own            ownVendors
	clocks         provider.Clocks
	unstoredGrants unstoredGrants
	keptConsents   keptConsents
	inUse          vendorsInUse
	vendorPauses   pauses // as vendors ask for them
	devicePauses   pauses // between two requests for device codes
	polls          *polls
	hosts          hostLimits
	variants       variantCounts
	keySets        keySets
	isRotating     atomic.Bool // key pairs, in the background

	unsavedRotations unsavedRotations
	rotationSlots    chan struct{} // limits concurrent rotations in the background
	rotations        sync.Map      // the paths of those that run
	uncertain        sync.Map      // *storedCredential by name: a write of it has failed, perhaps after it took effect
	broker           *broker.Broker
}

// New returns a Store, and the broker of its credentials' tokens.
func New(options Options, observer broker.Observer) (*Store, *broker.Broker) {
	st := &Store{options: options, unstoredGrants: unstoredGrants{grants: map[string]unstoredGrant{}}, polls: newPolls(), keySets: newKeySets(), rotationSlots: make(chan struct{}, concurrentRotations)}
	st.broker = broker.New(st, observer)
	return st, st.broker
}

// Logger implements broker.Source.
func (st *Store) Logger() hclog.Logger { return st.options.Logger() }

// Names returns the names of all credentials, sorted, and of their variants. It implements broker.Source. Only sweeps
// call it, on a node that may write, and the first call after a start also mends the list of vendors.
func (st *Store) Names(ctx context.Context, s logical.Storage) ([]string, error) {
	if err := st.inUse.repair(ctx, s); err != nil {
		return nil, err
	}
	vendors, err := st.VendorNames(ctx, s)
	if err != nil {
		return nil, err
	}
	variants, err := st.variantNames(ctx, s)
	return append(sortedKeys(vendors), variants...), err
}

// Credential returns the credential with this name, ready to be exchanged; nil if there is none. It
// implements broker.Source.
func (st *Store) Credential(ctx context.Context, s logical.Storage, name string) (*broker.Credential, error) {
	if err := st.loadHosts(ctx, s); err != nil { // tokens do not depend on it; the next use loads them
		st.Logger().Warn("the limits of hosts cannot be read yet", "error", err)
	}
	if base, digest, isVariant := strings.Cut(name, broker.VariantMark); isVariant {
		return st.variant(ctx, s, base, digest)
	}
	vendors, err := st.inUse.list(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, vendor := range vendors {
		p, err := st.vendorFor(ctx, s, vendor)
		if err != nil {
			exists, existsErr := storage.Exists(ctx, s, storage.CredentialKey(vendor, name))
			if storage.IsError(err) || exists || existsErr != nil {
				return nil, cmp.Or(existsErr, err)
			}
			continue // a vendor that is gone must not harm the credentials of others
		}
		switch c, err := st.get(ctx, s, p, name); {
		case err != nil:
			return nil, err
		case c != nil:
			return st.open(c)
		}
	}
	return nil, nil
}

// A storedCredential is a credential in storage: its own entry, or the entry that an activation of
// its key pair has put in its place.
type storedCredential struct {
	*Entry
	vendor provider.Provider
	name   string

	// generation is the generation of the credential's own entry.
	generation string

	key signingKey

	client *clientUse // nil if the credential uses none

	isClient bool // stands for the credentials of its client

	to Destinations // of its secrets; only consentOf sets it
}

// path returns the path of the credential, as operators write it.
func (c *storedCredential) path() string { return apipath.Credential(c.vendor.Name(), c.name) }

// storageKey returns the storage key of the credential's own entry.
func (c *storedCredential) storageKey() string { return storage.CredentialKey(c.vendor.Name(), c.name) }

const repairCredential = "delete it and write the credential again"

// getOwn returns a credential with its own entry, and its client; nil if there is none.
func (st *Store) getOwn(ctx context.Context, s logical.Storage, p provider.Provider, name string) (*storedCredential, error) {
	key := storage.CredentialKey(p.Name(), name)
	entry, err := storage.Get[Entry](ctx, s, key, repairCredential)
	if err != nil || entry == nil {
		return nil, err
	}
	if !entry.hasFieldsOf(p) {
		return nil, storage.Damaged(key, repairCredential)
	}
	client, err := readClientUse(ctx, s, entry.text(clientField))
	if err != nil {
		return nil, err
	}
	return &storedCredential{Entry: entry, vendor: p, name: name, generation: entry.Generation, client: client}, nil
}

// get returns a credential after loadKey; nil if there is none.
func (st *Store) get(ctx context.Context, s logical.Storage, p provider.Provider, name string) (*storedCredential, error) {
	c, err := st.getOwn(ctx, s, p, name)
	if err != nil || c == nil {
		return nil, err
	}
	return c, c.loadKey(ctx, s)
}

func (c *storedCredential) put(ctx context.Context, s logical.Storage) error {
	stored := c.withEntry(func(e *Entry) { e.Secrets = c.secretFields() })
	return storage.Retry(ctx, func() error { return storage.Put(ctx, s, c.storageKey(), stored.Entry) })
}

// secretFields returns the names of the secret fields that are set, sorted.
func (c *storedCredential) secretFields() []string {
	schemas := FieldSchemas(c.vendor)
	return slices.DeleteFunc(sortedKeys(c.Fields), func(field string) bool {
		return !IsSecret(schemas[field]) && !slices.Contains(c.Secrets, field)
	})
}

// A Config is what a read of a credential returns. It contains no secret.
type Config struct {
	Fields  map[string]any // the stored fields that are not secret
	Secrets []string       // the names of the stored secret fields, sorted

	// Resolved is what follows from the fields; nil if the credential cannot be used.
	Resolved *Resolved
}

// Resolved are values that follow from the fields of a credential.
type Resolved struct {
	Keepalive time.Duration
	URLs      []string // that receive the secrets, without their queries, which may hold one
	Scope     []string
}

// Read returns a credential without its secrets; nil if there is none.
func (st *Store) Read(ctx context.Context, s logical.Storage, p provider.Provider, name string) (*Config, error) {
	c, err := st.get(ctx, s, p, name)
	if err != nil || c == nil {
		return nil, err
	}
	config := &Config{Fields: maps.Clone(c.Fields), Secrets: c.secretFields()}
	for _, secret := range config.Secrets {
		delete(config.Fields, secret)
	}
	if credential, err := st.open(c); err == nil {
		config.Resolved = resolved(credential)
	}
	return config, nil
}

func resolved(c *broker.Credential) *Resolved {
	r := &Resolved{Keepalive: c.Keepalive, Scope: c.Vendor.Scope()}
	to := c.Vendor.Destinations()
	for _, url := range append(slices.Clone(to.URLs), to.Issuer) {
		if base, _, _ := strings.Cut(url, "?"); base != "" {
			r.URLs = append(r.URLs, base)
		}
	}
	return r
}
