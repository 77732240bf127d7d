package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// generated is the one value of private_key_source.
const generated = "generated"

// generatedKeyFields are those of every credential that has a private_key. Providers need
// not know them: they get the key.
func generatedKeyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"private_key_source": {
			Type:          framework.TypeString,
			Description:   "Where the private key comes from, if it is not given as private_key: generated is a key pair of keypair/<name>, whose private half never leaves Vault.",
			AllowedValues: []any{generated},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Private key source"},
		},
		"keypair": {
			Type:         framework.TypeString,
			Description:  "The name of the generated key pair. Default: the credential's own.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key pair"},
		},
	}
}

// keypairName is the key pair that a credential of some fields uses; "" if it has none.
func keypairName(credential string, fields map[string]any) string {
	if fields["private_key_source"] == nil {
		return ""
	}
	if name, ok := fields["keypair"].(string); ok {
		return name
	}
	return credential
}

// resolve is the credential of a name as it is now: what was stored, or what an
// activation has made of it since, with the key pair that it uses. One read of the key
// pair tells both.
func (c *configEntry) resolve(ctx context.Context, s logical.Storage, name string) (*configEntry, error) {
	c.stored = c.Generation
	used := keypairName(name, c.Fields)
	if used == "" {
		return c, nil
	}
	k, err := getKeypair(ctx, s, used)
	var newer *storage.NewerFormatError
	switch {
	case storage.IsError(err) || errors.As(err, &newer): // which may tell another credential than is stored
		return nil, err
	case err == nil && k == nil:
		err = provider.Errorf(provider.Invalid, "keypair: there is no %s%s; make it by a write to that path first", keypairPrefix, provider.List([]string{used}))
	}
	if err != nil {
		c.pairErr = err // which must not keep the credential from being mended
		return c, nil
	}
	if a, ok := k.Activated[name]; ok && a.Of == c.Generation {
		if !a.Entry.hasFieldsOf(c.provider) {
			c.pairErr = storage.Damaged(storage.KeypairKey(used), mendKeypair)
			return c, nil
		}
		a.Entry.stored, a.Entry.provider = c.Generation, c.provider
		c = a.Entry
	}
	c.pair, c.allowance = k.Active, k.allowance
	return c, nil
}

// vendorFields are the fields that the provider gets, with the private key that they
// stand for.
func (c *configEntry) vendorFields() (map[string]any, error) {
	source := c.Fields["private_key_source"]
	switch {
	case source == nil && c.Fields["keypair"] != nil:
		return nil, provider.Errorf(provider.Invalid, `keypair: goes with private_key_source=generated; give that too, or clear this with keypair=""`)
	case source == nil:
		return c.Fields, nil
	case source != generated:
		return nil, provider.Errorf(provider.Invalid, "private_key_source: %s is not generated, which is all that it can be; leave it out to give a private_key", provider.Quote(fmt.Sprint(source)))
	case c.Fields["private_key"] != nil:
		return nil, provider.Errorf(provider.Invalid, `private_key and private_key_source contradict each other: give one, and clear the other with private_key="" or private_key_source=""`)
	case c.pair == nil:
		return nil, c.pairErr
	}
	fields := maps.Clone(c.Fields)
	fields["private_key"] = c.pair.PrivateKey
	return fields, nil
}

// thumbprint is that of the generated key; "" if the operator gave it.
func (c *configEntry) thumbprint() string {
	if c.pair == nil {
		return ""
	}
	return c.pair.KeyID
}

// ofKeypair has what a provider says of private_key say it of the fields that the
// operator gave in its place.
func (c *configEntry) ofKeypair(name string, err error) error {
	var refusal *provider.Error
	used := keypairName(name, c.Fields)
	if used == "" || !errors.As(err, &refusal) {
		return err
	}
	reason := strings.ReplaceAll(refusal.Reason, `private_key=""`, `private_key_source=""`)
	if said, of := strings.CutPrefix(reason, "private_key: "); of {
		reason = "keypair: the private key of " + keypairPrefix + used + " " + said
	}
	return provider.Errorf(refusal.Kind, "%s", reason)
}

// alone runs f while nobody activates or deletes a key pair, if there is one.
func (b *backend) alone(ctx context.Context, keypair string, f func() error) error {
	if keypair == "" {
		return f()
	}
	return b.broker.Exclusive(ctx, f, keypairPrefix+keypair)
}

// withKeypair runs f, which writes a credential, with the name of the key pair that it is
// to use, if any, while nobody activates or deletes that.
func (b *backend) withKeypair(ctx context.Context, req *logical.Request, p provider.Provider, name string, d *framework.FieldData, f func(used string) error) error {
	stored, err := getConfig(ctx, req.Storage, p.Name(), name)
	if err != nil {
		return err
	}
	next, err := amend(req.Operation, name, stored, d)
	if err != nil {
		return err
	}
	used := keypairName(name, next.Fields)
	return b.alone(ctx, used, func() error { return f(used) })
}

// A user is a credential that uses a key pair.
type user struct {
	provider provider.Provider
	name     string
	entry    *configEntry
}

func (u user) path() string { return configKey(u.provider.Name(), u.name) }

// users are sorted by name.
type users []user

func (us users) String() string {
	paths := make([]string, len(us))
	for i, u := range us {
		paths[i] = u.path()
	}
	return strings.Join(paths, ", ")
}

// unsettled is what an activation of a key pair has made of its users that their own
// entries do not say yet.
func (us users) unsettled(k *keypair) map[string]activated {
	left := map[string]activated{}
	for _, u := range us {
		if a, ok := k.Activated[u.name]; ok && a.Of == u.entry.stored {
			left[u.name] = a
		}
	}
	return left
}

// usersOf are the credentials that use a key pair, as they are stored (resolve).
func usersOf(ctx context.Context, s logical.Storage, keypair string) (users, error) {
	var found users
	for _, p := range providers {
		if p.Fields()["private_key"] == nil {
			continue
		}
		names, err := storage.List(ctx, s, storage.CredentialKey(p.Name(), ""))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			// Another key pair, and what it tells of its own users, is none of this one's business.
			entry, err := storedConfig(ctx, s, p.Name(), name)
			var newer *storage.NewerFormatError
			switch {
			case errors.As(err, &newer):
				return nil, mayUse(newer, keypairPrefix+keypair)
			case err != nil && !storage.IsDamaged(err): // one that is can be used by nobody, and uses nothing
				return nil, err
			}
			if entry != nil && keypairName(name, entry.Fields) == keypair {
				found = append(found, user{p, name, entry})
			}
		}
	}
	slices.SortFunc(found, func(a, b user) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

// resolve has the users be as they are now.
func (us users) resolve(ctx context.Context, s logical.Storage) error {
	for i, u := range us {
		entry, err := u.entry.resolve(ctx, s, u.name)
		if err != nil {
			return err
		}
		us[i].entry = entry
	}
	return nil
}
