package credential

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// generated is the one value of private_key_source.
const generated = "generated"

// A signingKey is the generated private key of a credential.
type signingKey struct {
	pair    *Pair // nil if the credential has none that it can use
	allowed Allowed
	err     error // why there is none, if there should be
}

// thumbprint returns that of the key; "" if the operator gave the key.
func (k signingKey) thumbprint() string {
	if k.pair == nil {
		return ""
	}
	return k.pair.KeyID
}

// check refuses a credential that the key must not sign for.
func (k signingKey) check(c *stored, to Destinations) error {
	if k.pair == nil {
		return nil
	}
	return k.allowed.check(c.keypair(), c.name, to)
}

// keypair returns the name of the key pair that the credential uses; "" if it has none.
func (c *stored) keypair() string {
	switch {
	case c.Fields["private_key_source"] == nil:
		return ""
	case c.Fields["keypair"] != nil:
		return c.text("keypair")
	}
	return c.name
}

// resolve makes the credential what it is now: what its own entry has, or what an activation has
// made of it since, with the key pair that it uses. One read of the key pair gives both. Its error
// is of type *storage.Error or *storage.NewerFormatError. A key pair that is missing or damaged is
// not an error, so that the credential can be mended: it has no key then.
func (c *stored) resolve(ctx context.Context, s logical.Storage) error {
	used := c.keypair()
	if used == "" {
		return nil
	}
	k, err := getKeypair(ctx, s, used)
	var newer *storage.NewerFormatError
	switch {
	case storage.IsError(err) || errors.As(err, &newer): // which may have another credential than is stored
		return err
	case err != nil:
		c.key.err = err
		return nil
	case k == nil:
		c.key.err = provider.Errorf(provider.Invalid, "keypair: there is no %s; make it by a write to that path first", KeypairPath(provider.List([]string{used})))
		return nil
	}
	if a, ok := k.Activated[c.name]; ok && a.Of == c.generation {
		if !a.Entry.hasFieldsOf(c.vendor) {
			c.key.err = storage.Damaged(storage.KeypairKey(used), mendKeypair)
			return nil
		}
		c.Entry = a.Entry
	}
	c.key = signingKey{pair: k.Active, allowed: k.Allowed}
	return nil
}

// vendorFields returns the fields for the vendor's package, with the generated private key in
// place of the fields that stand for it.
func (c *stored) vendorFields() (map[string]any, error) {
	source := c.Fields["private_key_source"]
	switch {
	case source == nil && c.Fields["keypair"] != nil:
		return nil, provider.Errorf(provider.Invalid, `keypair: goes with private_key_source=generated; give that too, or clear this with keypair=""`)
	case source == nil:
		return c.Fields, nil
	case source != generated:
		return nil, provider.Errorf(provider.Invalid, "private_key_source: %s is not generated, the only possible value; leave it out to give a private_key", provider.Quote(fmt.Sprint(source)))
	case c.Fields["private_key"] != nil:
		return nil, provider.Errorf(provider.Invalid, `private_key and private_key_source contradict each other: give one, and clear the other with private_key="" or private_key_source=""`)
	case c.key.pair == nil:
		return nil, c.key.err
	}
	fields := maps.Clone(c.Fields)
	fields["private_key"] = c.key.pair.PrivateKey
	return fields, nil
}

// ofKeypair returns an error about private_key as one about the fields that the operator gave in
// its place.
func (c *stored) ofKeypair(err error) error {
	var refusal *provider.Error
	if c.keypair() == "" || !errors.As(err, &refusal) {
		return err
	}
	reason := strings.ReplaceAll(refusal.Reason, `private_key=""`, `private_key_source=""`)
	if rest, isAboutKey := strings.CutPrefix(reason, "private_key: "); isAboutKey {
		reason = "keypair: the private key of " + KeypairPath(c.keypair()) + " " + rest
	}
	return provider.Errorf(refusal.Kind, "%s", reason)
}

// lockKeypair waits until nothing else changes a key pair; with "", there is none.
func (st *Store) lockKeypair(ctx context.Context, name string) (unlock func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	return st.broker.Lock(ctx, KeypairPath(name))
}
