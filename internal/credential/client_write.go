package credential

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A ClientRequest is what an operator sends for a client. A nil field stays unchanged.
type ClientRequest struct {
	WriteRequest // Verify has no meaning for a client

	Description *string
	ReapAfter   *time.Duration

	// DropFormer is whether to drop the former secrets now.
	DropFormer bool
}

// WriteClient checks and stores a client of a vendor. From then on, all credentials that use it have it.
// Its errors are *ConflictError, *NotFoundError, *provider.Error of kind Invalid, broker.ErrBusy and
// *storage.Error.
func (st *Store) WriteClient(ctx context.Context, s logical.Storage, vendor, name string, w ClientRequest) error {
	change, err := st.beginClient(ctx, s, name, vendor)
	if err != nil {
		return err
	}
	defer change.end()
	ctx = change.ctx
	stored, p := change.stored, change.vendor
	path := apipath.Client(name)
	switch {
	case w.Operation == Patch && stored == nil:
		return &NotFoundError{Path: path, What: "client"}
	case p == nil:
		return provider.Errorf(provider.Invalid, "vendor: must be set: the name of one of those that vendors/ lists")
	case stored != nil && stored.Vendor != p.Name():
		return provider.Errorf(provider.Invalid, "vendor: %s is a client of %s; create another one", path, stored.Vendor)
	}
	if err := CheckHasClients(p); err != nil {
		return err
	}
	if err := CheckConflict(w.Operation, path, change.exists); err != nil {
		return err
	}
	next, err := st.nextClient(p, name, stored, w, change.hasWorked())
	if err != nil {
		return err
	}
	key, _, err := readKey(ctx, s, keypairOf("", next.Fields))
	if err != nil {
		return err
	}
	if next.SentTo, err = st.destinations(p, name, next.Fields, key); err != nil {
		return provider.Errorf(provider.Invalid, "with these fields, no credential could use the client: %s", err)
	}
	if err := w.checkClientDestinations(stored, next); err != nil {
		return err
	}
	if next.Former != nil && !next.SentTo.within(stored.SentTo) {
		next.Former, next.FormerSecrets = nil, ""
	}
	for _, user := range change.users {
		if err := st.checkUser(ctx, s, p, user, &clientUse{name: name, Client: next}); err != nil {
			return err
		}
	}
	if err := st.bindClientKeypair(ctx, s, next, key); err != nil {
		return err
	}
	return change.put(next)
}

// nextClient returns the client that a write stores, but for its destinations. hasWorked is whether the
// stored secrets have worked for a credential.
func (st *Store) nextClient(p provider.Provider, name string, stored *Client, w ClientRequest, hasWorked bool) (*Client, error) {
	for _, field := range ownFields {
		if w.Fields[field] != nil {
			return nil, provider.Errorf(provider.Invalid, "%s: each credential of a client has its own; give it to config/%s/<name>", field, p.Name())
		}
	}
	last := &Client{Vendor: p.Name()}
	var entry *storedCredential // apply takes the fields of a credential
	if stored != nil {
		last, entry = stored, &storedCredential{Entry: &Entry{Fields: stored.Fields}}
	}
	next := *last
	next.Fields = w.apply(entry)
	if w.Description != nil {
		next.Description = *w.Description
	}
	if w.ReapAfter != nil {
		next.ReapAfter = *w.ReapAfter
	}
	switch {
	case next.ReapAfter != 0 && next.ReapAfter < minReapAfter:
		return nil, provider.Errorf(provider.Invalid, "reap_after: must be at least %s, so that a person has the time to consent again; or 0 for never", inUnits(minReapAfter))
	case next.Fields["private_key_source"] != nil && next.Fields["keypair"] == nil:
		return nil, provider.Errorf(provider.Invalid, "keypair: must be set: the name of the key pair, which has %q in its allowed_clients", name)
	}
	if err := checkDescription(next.Description); err != nil {
		return nil, err
	}
	if err := next.setVersions(p, last, hasWorked); err != nil {
		return nil, err
	}
	if w.DropFormer {
		next.Former, next.FormerSecrets = nil, ""
	}
	return &next, nil
}

// setVersions sets what identifies the client after a change, and its former fields.
func (c *Client) setVersions(p provider.Provider, last *Client, hasWorked bool) (err error) {
	var changed []string
	for field := range FieldSchemas(p) {
		if !reflect.DeepEqual(c.Fields[field], last.Fields[field]) {
			changed = append(changed, field)
		}
	}
	isSecret := func(field string) bool { return isAuthentication(p, field) }
	isOther := func(field string) bool { return !isSecret(field) }
	hasAuthentication := slices.ContainsFunc(sortedKeys(last.Fields), func(field string) bool { return IsSecret(FieldSchemas(p)[field]) || field == "keypair" })
	if last.Settings == "" || slices.ContainsFunc(changed, isOther) {
		if c.Settings, err = newGeneration(); err != nil {
			return err
		}
		c.Former, c.FormerSecrets = nil, "" // of other settings
	}
	if last.Secrets == "" || slices.ContainsFunc(changed, isSecret) {
		if c.Secrets, err = newGeneration(); err != nil {
			return err
		}
		// With other settings, the former secrets may be those of another client at the vendor. Secrets
		// that have worked nowhere are nothing to go back to.
		if hasAuthentication && c.Settings == last.Settings && (c.Former == nil || hasWorked) {
			c.Former, c.FormerSecrets = maps.Clone(last.Fields), last.Secrets
		}
	}
	schemas := FieldSchemas(p)
	c.SecretFields = slices.DeleteFunc(sortedKeys(c.Fields), func(field string) bool {
		return !IsSecret(schemas[field]) && !slices.Contains(last.SecretFields, field)
	})
	return nil
}

// checkClientDestinations returns an error if a write would send a stored secret of the client to a
// destination that the writer of the secret did not choose. (Guarantee 13.)
func (w ClientRequest) checkClientDestinations(stored, next *Client) error {
	if stored == nil {
		return nil
	}
	added := next.SentTo.beyond(stored.SentTo)
	var missing []string
	for _, field := range next.SecretFields {
		if _, isGiven := w.Fields[field]; !isGiven {
			missing = append(missing, field)
		}
	}
	if len(missing) == 0 || len(added) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "%s: must be given again, as this write would send the stored value to a new destination: %.300s", strings.Join(missing, ", "), added)
}

// checkUser returns an error if a credential could not be used with the client as it would be, or if it
// would send the credential's own secrets to a new destination. (Guarantee 13.)
func (st *Store) checkUser(ctx context.Context, s logical.Storage, p provider.Provider, name string, client *clientUse) error {
	own, err := st.getOwn(ctx, s, p, name)
	switch {
	case storage.IsError(err):
		return err
	case err != nil || own == nil: // damaged, or deleted meanwhile
		return nil
	}
	_, before := st.openLoaded(ctx, s, own)
	own.client = client
	opened, err := st.openLoaded(ctx, s, own)
	switch {
	case storage.IsError(err):
		return err
	case err != nil && before != nil: // it did not work before either
		return nil
	case err != nil:
		return provider.Errorf(provider.Invalid, "with it, %s is refused: %s", own.path(), err)
	}
	if added := Destinations(opened.SentTo).beyond(own.SentTo); len(added) > 0 && len(own.secretFields()) > 0 {
		return provider.Errorf(provider.Invalid, "with it, the stored secrets of %s would be sent to a new destination: %.300s; create another client, or delete the credential first", own.path(), added)
	}
	return nil
}

// openLoaded is open after loadKey.
func (st *Store) openLoaded(ctx context.Context, s logical.Storage, c *storedCredential) (*broker.Credential, error) {
	if err := c.loadKey(ctx, s); err != nil {
		return nil, err
	}
	return st.open(c)
}

// bindClientKeypair restricts the key pair of a client, if it has no allowed hosts, to those of the client.
func (st *Store) bindClientKeypair(ctx context.Context, s logical.Storage, next *Client, key signingKey) error {
	caCert, _ := next.Fields["ca_cert"].(string)
	return st.bind(ctx, s, keypairOf("", next.Fields), key, next.SentTo, caCert)
}

// DeleteClient deletes a client that no credential uses.
func (st *Store) DeleteClient(ctx context.Context, s logical.Storage, name string) error {
	change, err := st.beginClient(ctx, s, name, "")
	if err != nil {
		return err
	}
	defer change.end()
	if len(change.users) > 0 {
		shown := make([]string, 0, maxShownUsers)
		for _, user := range change.users[:min(len(change.users), maxShownUsers)] {
			shown = append(shown, change.pathOf(user))
		}
		more := ""
		if left := len(change.users) - len(shown); left > 0 {
			more = fmt.Sprintf(" and %d more", left)
		}
		return provider.Errorf(provider.Invalid, "%s is used by %s%s; delete these credentials first, or give them another client", apipath.Client(name), strings.Join(shown, ", "), more)
	}
	return storage.Delete(change.ctx, s, storage.ClientKey(name))
}

// maxShownUsers is how many credentials an error or a read of a client names.
const maxShownUsers = 20

// minReapAfter is the shortest time after which a rejected credential can be deleted.
const minReapAfter = time.Hour
