package credential

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A KeypairRequest is what an operator sends for a key pair.
type KeypairRequest struct {
	Operation Operation // Create or Update
	KeyType   string    // "" selects the type of the active pair, or the default
	Allowed   AllowedRequest

	Publication PublicationRequest
}

// A KeypairResult is a key pair after a write.
type KeypairResult struct {
	*Keypair
	Generated *Pair // nil if the write only changed Allowed and Publication
	Dropped   *Pair // the pending pair that Generated replaced; nil if there was none

	// outdated are the credentials of which the write has made the tokens void.
	outdated []string
}

// ReadKeypair returns the key pair with this name; nil if there is none.
func (st *Store) ReadKeypair(ctx context.Context, s logical.Storage, name string) (*Keypair, error) {
	return getKeypair(ctx, s, name)
}

// WriteKeypair creates a key pair, adds a pending pair to an existing one, or changes only what it
// may sign for and how it is published. Its errors are *ConflictError, *provider.Error of kind Invalid, broker.ErrBusy and
// *storage.Error.
func (st *Store) WriteKeypair(ctx context.Context, s logical.Storage, name string, w KeypairRequest) (*KeypairResult, error) {
	pair, err := w.requestedPair(ctx, s, name) // without the lock, as it may take seconds
	if err != nil {
		return nil, err
	}
	unlock, err := st.lockKeypair(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	k, err := getKeypair(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if err := CheckConflict(w.Operation, apipath.Keypair(name), k != nil); err != nil {
		return nil, err
	}
	result := &KeypairResult{Keypair: k, Generated: pair}
	switch {
	case k == nil && pair == nil: // deleted before the lock was taken
		return nil, broker.ErrBusy
	case k == nil:
		result.Keypair = &Keypair{Active: pair}
		if err := w.apply(result.Keypair, name); err != nil {
			return nil, err
		}
	default:
		if err := st.amendKeypair(ctx, s, name, result, w); err != nil {
			return nil, err
		}
	}
	err = st.putKeypair(ctx, s, name, result.Keypair)
	for _, user := range result.outdated { // also after an error, as the write may have succeeded
		st.broker.Forget(user)
	}
	return result, err
}

// apply applies the change of what a key pair may sign for and how it is published.
func (w KeypairRequest) apply(k *Keypair, name string) (err error) {
	if k.Allowed, err = w.Allowed.apply(k.Allowed); err != nil {
		return err
	}
	k.Publication, err = w.Publication.apply(k.Publication, name, wallTime())
	return err
}

// requestedPair returns the pair that the write asks for; nil if the write only changes what an
// existing key pair may sign for and how it is published.
func (w KeypairRequest) requestedPair(ctx context.Context, s logical.Storage, name string) (*Pair, error) {
	k, err := getKeypair(ctx, s, name)
	if err != nil {
		return nil, err
	}
	var next Keypair
	if k != nil {
		next = *k
	}
	if err := w.apply(&next, name); err != nil {
		return nil, err
	}
	typeName := w.KeyType
	switch {
	case typeName == "" && k != nil && (!w.Allowed.isEmpty() || !w.Publication.isEmpty()):
		return nil, nil
	case typeName == "" && k != nil:
		typeName = k.Active.KeyType
	case typeName == "":
		typeName = keyTypes[0].name
	}
	return generatePair(typeName)
}

// amendKeypair updates the existing key pair in result: it sets the generated pair, if any, as the
// pending one, and applies the change to what the key pair may sign for.
func (st *Store) amendKeypair(ctx context.Context, s logical.Storage, name string, result *KeypairResult, w KeypairRequest) error {
	us, err := st.usersOf(ctx, s, name)
	if err != nil {
		return err
	}
	k := result.Keypair
	unsettled := us.unsettled(k)
	if err := us.loadKeys(ctx, s); err != nil {
		return err
	}
	wasPublished, before := k.Publication.Publish, k.signingKey()
	if err := w.apply(k, name); err != nil {
		return err
	}
	if len(us) > 0 && !k.signingKey().signsAllOf(before) {
		if k.Identity, err = newGeneration(); err != nil {
			return err
		}
		result.outdated = us.names()
	}
	opened := st.openAll(us)
	if len(k.Hosts) == 0 {
		k.Allowed = k.bound(us.sentTo(opened))
	}
	if err := st.checkUsable(us, opened, result.Generated, k.signingKey()); err != nil {
		return err
	}
	if k.Publication.Publish {
		k.Active = k.Active.signing(st.longestSigned(us))
	}
	k.Activated = unsettled
	if result.Generated != nil {
		result.Dropped, k.Pending = k.Pending, result.Generated
		k.Publication.Failures, k.Publication.LastError, k.Publication.NextAttempt = 0, "", time.Time{}
	}
	switch now := wallTime(); {
	case !k.Publication.Publish:
		k.Pending = k.Pending.published(time.Time{})
	case !wasPublished || result.Generated != nil:
		k.Pending = k.Pending.published(now)
	}
	return nil
}

// openAll returns credentials ready to be exchanged, by name, without those that cannot be opened.
func (st *Store) openAll(us users) map[string]*broker.Credential {
	opened := map[string]*broker.Credential{}
	for _, u := range us {
		if credential, err := st.open(u); err == nil {
			opened[u.name] = credential
		}
	}
	return opened
}

// checkUsable returns an error if a credential that can use the active pair now could no longer do
// so with key, or could not use pair once it is activated.
func (st *Store) checkUsable(us users, opened map[string]*broker.Credential, pair *Pair, key signingKey) error {
	for _, u := range us {
		if opened[u.name] == nil {
			continue
		}
		next := *u
		next.key = key
		if _, err := st.open(&next); err != nil {
			return provider.Errorf(provider.Invalid, "%s uses the key pair and would stop working: %s", u.path(), err)
		}
		if pair == nil {
			continue
		}
		next.key.pair = pair
		if _, err := st.open(&next); err != nil {
			return provider.Errorf(provider.Invalid, "key_type: %s does not work for %s: %s", pair.KeyType, u.path(), err)
		}
	}
	return nil
}

// sentTo returns the destinations of the credentials that use a key pair, and the certificate
// authorities that they trust, in PEM. opened has those that can be opened.
func (us users) sentTo(opened map[string]*broker.Credential) (to Destinations, caCert string) {
	var certificates []string
	for _, u := range us {
		if sent := u.sentTo(opened[u.name]); sent != nil {
			to = append(to, sent...)
			if text := u.setting("ca_cert"); text != "" && !slices.Contains(certificates, text) {
				certificates = append(certificates, text)
			}
		}
	}
	return to, strings.Join(certificates, "\n")
}

// DeleteKeypair deletes a key pair. It fails if a credential uses it.
func (st *Store) DeleteKeypair(ctx context.Context, s logical.Storage, name string) error {
	unlock, err := st.lockKeypair(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	us, err := st.usersOf(ctx, s, name)
	if err != nil {
		return err
	}
	if len(us) > 0 {
		return provider.Errorf(provider.Invalid, "%s is used by %s; first delete these credentials or give them another key", apipath.Keypair(name), us)
	}
	clients, err := st.clientsWith(ctx, s, name)
	if err == nil && len(clients) == 0 {
		clients, err = st.formerWith(ctx, s, name)
	}
	if err != nil {
		return err
	}
	if len(clients) > 0 {
		return provider.Errorf(provider.Invalid, "%s is used by %s; first delete it or give it another key", apipath.Keypair(name), apipath.Client(clients[0]))
	}
	defer st.keySets.forget(name)
	return storage.Delete(ctx, s, storage.KeypairKey(name))
}
