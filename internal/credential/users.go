package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// users are the credentials that use a key pair, sorted by name.
type users []*storedCredential

// String returns the paths of the credentials, separated by commas.
func (us users) String() string {
	paths := make([]string, len(us))
	for i, u := range us {
		paths[i] = u.path()
	}
	return strings.Join(paths, ", ")
}

func (us users) names() []string {
	names := make([]string, len(us))
	for i, u := range us {
		names[i] = u.name
	}
	return names
}

// usersOf returns the credentials that use a key pair, with their own entries.
func (st *Store) usersOf(ctx context.Context, s logical.Storage, keypair string) (users, error) {
	var found users
	clients, err := st.clientsWith(ctx, s, keypair)
	if err != nil {
		return nil, err
	}
	vendors, err := st.inUse.list(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, vendor := range vendors {
		p, err := st.vendorFor(ctx, s, vendor)
		if storage.IsError(err) {
			return nil, err
		}
		if p != nil && FieldSchemas(p)["private_key"] == nil {
			continue
		}
		ofVendor, err := st.usersAt(ctx, s, vendor, p, err, keypair, clients)
		if err != nil {
			return nil, err
		}
		found = append(found, ofVendor...)
	}
	slices.SortFunc(found, func(a, b *storedCredential) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

// usersAt returns the credentials of a vendor that use a key pair, or one of the clients that use it. p is
// nil, and vendorErr says why, if the vendor is not known: none of its credentials may then use the key pair.
func (st *Store) usersAt(ctx context.Context, s logical.Storage, vendor string, p provider.Provider, vendorErr error, keypair string, clients []string) (users, error) {
	names, err := st.NamesOf(ctx, s, vendor)
	if err != nil {
		return nil, err
	}
	var found users
	for _, name := range names {
		entry, err := storage.Get[Entry](ctx, s, storage.CredentialKey(vendor, name), repairCredential)
		var newer *storage.NewerFormatError
		switch {
		case errors.As(err, &newer):
			return nil, MayUse(newer, apipath.Keypair(keypair))
		case storage.IsDamaged(err): // a damaged credential uses no key pair
		case err != nil:
			return nil, err
		case entry == nil || keypairOf(name, entry.Fields) != keypair && !slices.Contains(clients, entry.text(clientField)):
		case p == nil:
			return nil, vendorErr
		case entry.hasFieldsOf(p):
			client, err := readClientUse(ctx, s, entry.text(clientField))
			if err != nil {
				return nil, err
			}
			found = append(found, &storedCredential{Entry: entry, vendor: p, name: name, generation: entry.Generation, client: client})
		}
	}
	return found, nil
}

// loadKeys calls loadKey for each credential.
func (us users) loadKeys(ctx context.Context, s logical.Storage) error {
	for _, u := range us {
		if err := u.loadKey(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// unsettled returns the entries in a key pair that are not yet stored under the credentials' own
// keys.
func (us users) unsettled(k *Keypair) map[string]unsettledEntry {
	left := map[string]unsettledEntry{}
	for _, u := range us {
		if a, ok := k.Activated[u.name]; ok && a.Of == u.generation {
			left[u.name] = a
		}
	}
	return left
}

// MayUse returns the error of a change to used, which an entry that this version cannot read may
// use.
func MayUse(newer *storage.NewerFormatError, used string) error {
	return fmt.Errorf("%w, or delete %s; it may use %s, which cannot be changed or deleted until then", newer, newer.Path, used)
}
