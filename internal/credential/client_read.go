package credential

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A ClientConfig is what a read of a client returns. It contains no secret.
type ClientConfig struct {
	*Client // with the fields that are not secret; without Former

	// FormerSet are the names of the former secret fields that the vendor still gets if it refuses the
	// new ones, and Waiting the credentials for which the new ones have not worked yet.
	FormerSet []string
	Waiting   []string

	Users []string // the names of the credentials that use the client, sorted
}

// ReadClient returns a client without its secrets; nil if there is none.
func (st *Store) ReadClient(ctx context.Context, s logical.Storage, name string) (*ClientConfig, error) {
	c, err := getClient(ctx, s, name)
	if err != nil || c == nil {
		return nil, err
	}
	config := &ClientConfig{Client: c}
	if config.Users, err = st.usersOfClient(ctx, s, name, c); err != nil {
		return nil, err
	}
	if len(c.Formers) > 0 {
		p, err := st.vendorFor(ctx, s, c.Vendor)
		if err != nil {
			return nil, err
		}
		config.FormerSet = slices.DeleteFunc(sortedKeys(c.Formers[0].Fields), func(field string) bool {
			return !isProof(p, field) && !slices.Contains(c.SecretFields, field) || field == "private_key_source"
		})
		for _, user := range config.Users {
			if use, isKnown := st.broker.ClientUse(user); !isKnown || use.Accepted != c.Secrets {
				config.Waiting = append(config.Waiting, user)
			}
		}
	}
	public := *c
	public.Formers = nil
	public.Fields = maps.Clone(c.Fields)
	for _, field := range c.SecretFields {
		delete(public.Fields, field)
	}
	config.Client = &public
	return config, nil
}

// ClientVendor returns the vendor of a client; "" if there is no such client, or if it is damaged. Its error is of
// type *storage.Error.
func (st *Store) ClientVendor(ctx context.Context, s logical.Storage, name string) (string, error) {
	switch c, err := getClient(ctx, s, name); {
	case storage.IsError(err):
		return "", err
	case err != nil || c == nil:
		return "", nil
	default:
		return c.Vendor, nil
	}
}

// Clients returns the vendor of each client, by the client's name; "" for a damaged one.
func (st *Store) Clients(ctx context.Context, s logical.Storage) (map[string]string, error) {
	clients := map[string]string{}
	err := eachClient(ctx, s, func(name string, c *Client, _ error) error {
		clients[name] = ""
		if c != nil {
			clients[name] = c.Vendor
		}
		return nil
	})
	return clients, err
}

// eachClient calls f with each client, in the order of their names; c is nil, and err says why, for one
// that cannot be read. The error of eachClient is that of f, or of type *storage.Error.
func eachClient(ctx context.Context, s logical.Storage, f func(name string, c *Client, err error) error) error {
	names, err := storage.List(ctx, s, storage.ClientKey(""))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		c, err := getClient(ctx, s, name)
		if storage.IsError(err) {
			return err
		}
		if c == nil && err == nil { // deleted meanwhile
			continue
		}
		if err := f(name, c, err); err != nil {
			return err
		}
	}
	return nil
}

// clientsOf returns the names of a vendor's clients, sorted.
func (st *Store) clientsOf(ctx context.Context, s logical.Storage, vendor string) ([]string, error) {
	return clientsWhere(ctx, s, apipath.Vendor(vendor), func(c *Client) bool { return c.Vendor == vendor })
}

// clientsWith returns the names of the clients that use a key pair, sorted.
func (st *Store) clientsWith(ctx context.Context, s logical.Storage, keypair string) ([]string, error) {
	return clientsWhere(ctx, s, apipath.Keypair(keypair), func(c *Client) bool { return keypairOf("", c.Fields) == keypair })
}

// formerWith returns the names of the clients of which a key pair is a former one, sorted.
func (st *Store) formerWith(ctx context.Context, s logical.Storage, keypair string) ([]string, error) {
	return clientsWhere(ctx, s, apipath.Keypair(keypair), func(c *Client) bool {
		return slices.ContainsFunc(c.Formers, func(former FormerClient) bool { return keypairOf("", former.Fields) == keypair })
	})
}

// clientsWhere returns the names of the clients that meet a condition: those that use a path. A damaged
// client uses none.
func clientsWhere(ctx context.Context, s logical.Storage, used string, meets func(*Client) bool) ([]string, error) {
	var found []string
	err := eachClient(ctx, s, func(name string, c *Client, err error) error {
		var newer *storage.NewerFormatError
		switch {
		case errors.As(err, &newer):
			return MayUse(newer, used)
		case c != nil && meets(c):
			found = append(found, name)
		}
		return nil
	})
	return found, err
}

// checkRedefinedClient returns an error if a client cannot have another definition of its vendor.
func (st *Store) checkRedefinedClient(ctx context.Context, s logical.Storage, next provider.Provider, name string) error {
	c, err := getClient(ctx, s, name)
	if err != nil || c == nil { // damaged, or deleted meanwhile
		return err
	}
	path := apipath.Client(name)
	for _, field := range c.SecretFields {
		if !IsSecret(FieldSchemas(next)[field]) {
			return provider.Errorf(provider.Invalid, "definition: /fields/%s: must stay a secret, as %s has it as one; give a field that is not a secret another name", field, path)
		}
	}
	if !(&Entry{Fields: c.Fields}).hasFieldsOf(next) {
		return provider.Errorf(provider.Invalid, "definition: %s has a field, or a value of a type, that this definition does not have; delete the client, or keep the field", path)
	}
	key, _, err := readKey(ctx, s, keypairOf("", c.Fields))
	if err != nil {
		return err
	}
	to, err := st.destinations(next, name, c.Fields, key)
	if err != nil {
		return provider.Errorf(provider.Invalid, "definition: with it, %s is refused: %s", path, err)
	}
	if added := to.beyond(c.SentTo); len(added) > 0 {
		return provider.Errorf(provider.Invalid, "definition: with it, the stored secrets of %s would be sent to a new destination: %.300s; define another vendor, or delete the client first", path, added)
	}
	return nil
}

// SweepClients drops the former secrets of clients whose new ones have worked for all credentials.
func (st *Store) SweepClients(ctx context.Context, s logical.Storage) error {
	return st.eachInUse(ctx, s, func(name string, c *Client) error {
		if len(c.Formers) == 0 || !st.broker.HaveAccepted(name, c.Secrets) {
			return nil
		}
		err := st.dropFormer(ctx, s, name)
		if !storage.IsError(err) && err != nil {
			st.Logger().Warn("cannot drop the former secrets of a client yet", "client", name, "error", err)
			err = nil
		}
		return err
	})
}

// clientReadTimeout bounds a read of a client in the background (guarantee 11).
const clientReadTimeout = 5 * time.Second

func getClientIn(ctx context.Context, s logical.Storage, name string, timeout time.Duration) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return getClient(ctx, s, name)
}

// eachInUse calls f with each client that a credential in memory uses, unless the engine has stopped. A client
// that cannot be read has its error where it is used.
func (st *Store) eachInUse(ctx context.Context, s logical.Storage, f func(name string, c *Client) error) error {
	for _, name := range st.broker.ClientsInUse() {
		c, err := getClientIn(ctx, s, name, clientReadTimeout)
		if err == nil && c != nil {
			err = f(name, c)
		}
		if storage.IsError(err) {
			return err
		}
	}
	return nil
}

// dropFormer drops the former secrets of a client, if the new ones have worked for all credentials.
func (st *Store) dropFormer(ctx context.Context, s logical.Storage, name string) error {
	change, err := st.beginClient(ctx, s, name, "")
	if err != nil {
		return err
	}
	defer change.end()
	if change.stored == nil || len(change.stored.Formers) == 0 {
		return nil
	}
	isProven, err := change.isProven()
	if err != nil || !isProven {
		return err
	}
	next := *change.stored
	next.Formers = nil
	if err := change.put(&next); err != nil {
		return err
	}
	st.Logger().Info("the former secrets of a client are dropped, as the new ones have worked everywhere", "client", name)
	return nil
}

// isProven reports whether the vendor has accepted the stored secrets from each user in storage, and issued a
// token with them. A user that cannot be exchanged proves nothing and needs no secrets.
func (c *clientChange) isProven() (bool, error) {
	users, err := c.users()
	if err != nil {
		return false, err
	}
	for _, user := range users {
		if !c.store.broker.IsInMemory(user) {
			return false, nil
		}
	}
	return c.store.broker.HaveAccepted(c.name, c.stored.Secrets), nil
}

// A Reapable is a credential that its client's reap_after wants to be deleted.
type Reapable struct {
	Vendor, Name, Client string
	Since                time.Time // that the vendor rejects it
}

// Reapables returns the credentials that the vendor has rejected for longer than the reap_after of their
// client. A credential that fails because of its client is not among them.
func (st *Store) Reapables(ctx context.Context, s logical.Storage, now time.Time) ([]Reapable, error) {
	var all []Reapable
	err := st.eachInUse(ctx, s, func(name string, c *Client) error {
		if c.ReapAfter == 0 {
			return nil
		}
		hasWorked := sync.OnceValue(func() bool { return st.broker.HasWorked(name, c.Settings, "") })
		for user, since := range st.broker.RejectedUsers(name) {
			// Without a token for any user, the client itself may be wrong.
			if now.Sub(since) >= c.ReapAfter && hasWorked() {
				all = append(all, Reapable{Vendor: c.Vendor, Name: user, Client: name, Since: since})
			}
		}
		return nil
	})
	return all, err
}
