package credential

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// generated is the only value of private_key_source.
const generated = "generated"

// A signingKey is the generated private key of a credential.
type signingKey struct {
	pair        *Pair // nil if the credential has no usable key pair
	allowed     Allowed
	identity    string // of the key pair
	issuedBy    string // the issuer of the pair; "" if it has none
	rotates     bool   // a schedule rotates the pair
	isPublished bool   // at jwks/
	err         error  // why pair is nil although the credential names a key pair
}

// thumbprint returns the thumbprint of the key; "" if the key is not a generated one.
func (k signingKey) thumbprint() string {
	if k.pair == nil {
		return ""
	}
	return k.pair.KeyID
}

// issuer returns the issuer of the key; "" if it has none.
func (k signingKey) issuer() string {
	if k.pair == nil {
		return ""
	}
	return k.issuedBy
}

// check returns an error if the key may not sign for the credential, which vendor is.
func (k signingKey) check(c *storedCredential, to Destinations, vendor provider.Credential) error {
	if k.pair == nil {
		return nil
	}
	if k.rotates && c.setting("key_id") != "" {
		return provider.Errorf(provider.Invalid, `key_id: must not be set, as %s rotates by a schedule, and each of its keys has an ID of its own; clear it with key_id="", or clear the schedule`, apipath.Keypair(c.keypairName()))
	}
	if err := k.allowed.check(c, to); err != nil {
		return err
	}
	return k.checkSubjects(c, vendor)
}

// keypairName returns the name of the key pair that the credential uses; "" if it uses none.
func (c *storedCredential) keypairName() string {
	if c.client.hasKeypair() {
		return keypairOf("", c.client.Fields)
	}
	return keypairOf(c.name, c.Fields)
}

// keypairOf returns the name of the key pair that a credential with this name and these fields uses;
// "" if it uses none.
func keypairOf(name string, fields map[string]any) string {
	if fields["private_key_source"] == nil {
		return ""
	}
	if given, _ := fields["keypair"].(string); given != "" {
		return given
	}
	return name
}

// readKey reads the private key of a key pair, and the entries that an activation has put in place
// of those of credentials. One read returns both. Its error is of type *storage.Error or
// *storage.NewerFormatError. A missing or damaged key pair is not an error: the credential then has
// no key, and can be repaired by a write. With an empty name, readKey returns no key.
func readKey(ctx context.Context, s logical.Storage, keypair string) (signingKey, map[string]unsettledEntry, error) {
	if keypair == "" {
		return signingKey{}, nil, nil
	}
	k, err := getKeypair(ctx, s, keypair)
	var newer *storage.NewerFormatError
	switch {
	case storage.IsError(err) || errors.As(err, &newer): // the key pair may hold a newer entry of a credential
		return signingKey{}, nil, err
	case err != nil:
		return signingKey{err: err}, nil, nil
	case k == nil:
		err := provider.Errorf(provider.Invalid, "keypair: %s does not exist; create it first", apipath.Keypair(provider.List([]string{keypair})))
		return signingKey{err: err}, nil, nil
	}
	return k.signingKey(), k.Activated, nil
}

// signingKey returns the active pair as the key of a credential.
func (k *Keypair) signingKey() signingKey {
	return signingKey{pair: k.Active, allowed: k.Allowed, identity: k.Identity, issuedBy: k.Publication.Issuer, rotates: k.Publication.Rotates(), isPublished: k.Publication.Publish}
}

// loadKey loads the key of the credential, and the entry that an activation has put in place of the
// credential's own. Its errors are those of readKey.
func (c *storedCredential) loadKey(ctx context.Context, s logical.Storage) error {
	key, activated, err := readKey(ctx, s, c.keypairName())
	if err != nil {
		return err
	}
	if a, ok := activated[c.name]; ok && a.Of == c.generation {
		if a.Entry.hasFieldsOf(c.vendor) {
			c.Entry = a.Entry
		} else {
			key = signingKey{err: storage.Damaged(storage.KeypairKey(c.keypairName()), repairKeypair)}
		}
	}
	c.key = key
	return nil
}

// vendorFields returns the fields for the vendor's package, with private_key set to the generated
// key if the credential uses one.
func (c *storedCredential) vendorFields() (map[string]any, error) {
	fields, err := c.fields()
	if err != nil {
		return nil, err
	}
	source := fields["private_key_source"]
	switch {
	case source == nil && fields["keypair"] != nil:
		return nil, provider.Errorf(provider.Invalid, `keypair: requires private_key_source=generated; set that too, or clear this with keypair=""`)
	case source == nil:
		return fields, nil
	case source != generated:
		return nil, provider.Errorf(provider.Invalid, "private_key_source: unknown value %s (allowed: generated); omit it to give a private_key", provider.Quote(fmt.Sprint(source)))
	case fields["private_key"] != nil:
		return nil, provider.Errorf(provider.Invalid, `private_key and private_key_source are mutually exclusive; give one, and clear the other with private_key="" or private_key_source=""`)
	case c.key.pair == nil:
		return nil, c.key.err
	}
	fields = maps.Clone(fields)
	fields["private_key"] = c.key.pair.PrivateKey
	return fields, nil
}

// keypairError rewrites a vendor's error about private_key to name the fields that the operator
// gave instead.
func (c *storedCredential) keypairError(err error) error {
	var refusal *provider.Error
	if c.keypairName() == "" || !errors.As(err, &refusal) {
		return err
	}
	reason := strings.ReplaceAll(refusal.Reason, `private_key=""`, `private_key_source=""`)
	if rest, isAboutKey := strings.CutPrefix(reason, "private_key: "); isAboutKey {
		reason = "keypair: the private key of " + apipath.Keypair(c.keypairName()) + " " + rest
	}
	return provider.Errorf(refusal.Kind, "%s", reason)
}

// lockKeypair locks a key pair against other changes. With an empty name it does nothing.
func (st *Store) lockKeypair(ctx context.Context, name string) (unlock func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	return st.broker.Lock(ctx, storage.KeypairKey(name))
}
