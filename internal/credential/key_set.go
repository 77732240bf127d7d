package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// A KeySet is what anyone may read of a published key pair.
type KeySet struct {
	JWKS      []byte // RFC 7517
	Discovery []byte // OpenID Connect Discovery 1.0; nil if the key pair has no issuer
	MaxAge    time.Duration

	issuer   string
	keys     map[string]time.Time // by ID, until when a retired one is published; the zero time for the others
	readTime time.Time
	nextStep time.Time // of the rotation; zero if there is none
	rotation *KeypairRotation
}

// newKeySet returns the key set of a key pair; nil if it is not published, or damaged.
func newKeySet(k *Keypair, now time.Time) *KeySet {
	p := &k.Publication
	if !p.Publish {
		return nil
	}
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	keys := map[string]time.Time{}
	var algorithms []string
	for _, pair := range []*Pair{k.Active, k.Pending} {
		if pair == nil {
			continue
		}
		_, jwk, err := pair.public()
		if err != nil {
			return nil
		}
		document.Keys = append(document.Keys, jwk)
		keys[pair.KeyID] = time.Time{}
		if t, err := findKeyType(pair.KeyType); err == nil {
			for _, algorithm := range t.algorithms {
				if !slices.Contains(algorithms, string(algorithm)) {
					algorithms = append(algorithms, string(algorithm))
				}
			}
		}
	}
	for _, retired := range p.Retired {
		document.Keys = append(document.Keys, retired.JWK)
		keys[retired.KeyID] = retired.Until()
	}
	set := &KeySet{MaxAge: p.MaxAge(), issuer: p.Issuer, keys: keys, readTime: now, rotation: k.rotation(now)}
	_, set.nextStep = k.nextStep(now)
	var err error
	if set.JWKS, err = json.Marshal(document); err != nil {
		return nil
	}
	if p.Issuer == "" {
		return set
	}
	// The issuer is the URL of the keys themselves, so that one URL is all that a vendor needs.
	set.Discovery, err = json.Marshal(map[string]any{
		"issuer": p.Issuer, "jwks_uri": p.Issuer,
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": algorithms,
	})
	if err != nil {
		return nil
	}
	return set
}

// isPartOf reports whether consumers may still get the set in place of the next one, which has all its keys that are still
// published, and may be cached for as long.
func (set *KeySet) isPartOf(next *KeySet) bool {
	if set == nil || next == nil || set.issuer != next.issuer || set.MaxAge > next.MaxAge {
		return false
	}
	for id, until := range set.keys {
		if _, isThere := next.keys[id]; !isThere && (until.IsZero() || next.readTime.Before(until)) {
			return false
		}
	}
	return true
}

// keySets are the key sets of the published key pairs, by name. Anyone may ask for any name, so a name
// without a key pair costs neither storage access nor memory. It is safe for concurrent use.
type keySets struct {
	mu   sync.RWMutex
	sets map[string]*KeySet

	// isListed is whether the names of all key pairs were read. The key pairs of those in unread have
	// yet to be read, since the start or a change.
	isListed bool
	unread   map[string]unreadKeypair
	changes  uint64

	reads singleflight.Group
}

// An unreadKeypair is a key pair that has yet to be read.
type unreadKeypair struct {
	change uint64 // a number from 1 that identifies the last change

	// servesLast is whether the last set is served while storage fails: only writes of this node have failed since it was
	// read, and it is part of what they would have stored.
	servesLast bool
}

func newKeySets() keySets {
	return keySets{sets: map[string]*KeySet{}, unread: map[string]unreadKeypair{}}
}

// get returns the key set of a name; nil if there is none. isKnown is false if storage must be read first.
func (ks *keySets) get(name string) (set *KeySet, isKnown bool) {
	ks.mu.RLock()
	defer ks.mu.RUnlock()
	_, isUnread := ks.unread[name]
	return ks.sets[name], ks.isListed && !isUnread
}

// forget makes the next use of a name read its key pair, which has changed.
func (ks *keySets) forget(name string) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	ks.changes++
	ks.unread[name] = unreadKeypair{change: ks.changes}
}

// doubt is forget after a write of the key pair has failed, and may have succeeded. next is the set of what it would have
// stored; nil if there is none.
func (ks *keySets) doubt(name string, next *KeySet) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	last, isUnread := ks.unread[name]
	ks.changes++
	ks.unread[name] = unreadKeypair{change: ks.changes, servesLast: (!isUnread || last.servesLast) && ks.sets[name].isPartOf(next)}
}

// last returns the last set of a name that is unread; nil if it is not served.
func (ks *keySets) last(name string) *KeySet {
	ks.mu.RLock()
	defer ks.mu.RUnlock()
	if !ks.unread[name].servesLast {
		return nil
	}
	return ks.sets[name]
}

// list records the names of all key pairs.
func (ks *keySets) list(ctx context.Context, s logical.Storage) error {
	ks.mu.RLock()
	isListed := ks.isListed
	ks.mu.RUnlock()
	if isListed {
		return nil
	}
	names, err := storage.List(ctx, s, storage.KeypairKey(""))
	if err != nil {
		return err
	}
	ks.mu.Lock()
	defer ks.mu.Unlock()
	for _, name := range names {
		if _, isUnread := ks.unread[name]; !isUnread && ks.sets[name] == nil {
			ks.changes++
			ks.unread[name] = unreadKeypair{change: ks.changes}
		}
	}
	ks.isListed = true
	return nil
}

// read reads the key pair of a name that is unread, and returns its key set.
func (ks *keySets) read(ctx context.Context, s logical.Storage, name string) (*KeySet, error) {
	ks.mu.RLock()
	unread, isUnread := ks.unread[name]
	set := ks.sets[name]
	ks.mu.RUnlock()
	if !isUnread {
		return set, nil
	}
	k, err := getKeypair(ctx, s, name)
	if storage.IsError(err) {
		return nil, err
	}
	set = nil
	if err == nil && k != nil { // keypair/<name> has any other error
		set = newKeySet(k, wallTime())
	}
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if ks.unread[name].change != unread.change {
		return set, nil // changed meanwhile
	}
	delete(ks.unread, name)
	delete(ks.sets, name)
	if set != nil {
		ks.sets[name] = set
	}
	return set, nil
}

// changeOf returns what identifies the last change of a name. A reader must not get what another one has begun
// to read before that.
func (ks *keySets) changeOf(name string) string {
	ks.mu.RLock()
	defer ks.mu.RUnlock()
	return fmt.Sprintf("%s %d", name, ks.unread[name].change)
}

// unreadNames returns the names whose key pairs have yet to be read, sorted.
func (ks *keySets) unreadNames() []string {
	ks.mu.RLock()
	defer ks.mu.RUnlock()
	return slices.Sorted(maps.Keys(ks.unread))
}

// due returns the names whose rotation has a step to do, the longest overdue first. They include those that
// were read before the clock was set back.
func (ks *keySets) due(now time.Time) []string {
	ks.mu.RLock()
	defer ks.mu.RUnlock()
	var names []string
	for name, set := range ks.sets {
		isBack := set.readTime.After(now.Add(maxAhead))
		if !set.nextStep.IsZero() && (isBack || !now.Before(set.nextStep)) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return ks.sets[a].nextStep.Compare(ks.sets[b].nextStep) })
	return names
}

// keySetTimeout bounds the storage access for a reader of a key set, who is anyone.
const keySetTimeout = 10 * time.Second

// KeySet returns the key set of a name; nil if no key pair with this name is published. It reads storage
// only after a start or a change. While storage fails after a write of a key pair has failed, it returns the set of before
// that. Its error is of type *storage.Error.
func (st *Store) KeySet(ctx context.Context, s logical.Storage, name string) (*KeySet, error) {
	ks := &st.keySets
	if set, isKnown := ks.get(name); isKnown {
		return set, nil
	}
	// Readers share the access, and one who goes away does not end it for the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keySetTimeout)
	defer cancel()
	if _, err, _ := ks.reads.Do("", func() (any, error) { return nil, ks.list(ctx, s) }); err != nil {
		return nil, err
	}
	if set, isKnown := ks.get(name); isKnown {
		return set, nil
	}
	set, err, _ := ks.reads.Do(ks.changeOf(name), func() (any, error) { return ks.read(ctx, s, name) })
	if err != nil {
		if last := ks.last(name); last != nil {
			return last, nil
		}
		return nil, err
	}
	return set.(*KeySet), nil //nolint:forcetypeassert // read returns nothing else
}

// ForgetKeypair makes the next use of a key pair read it again, as another node has written it.
func (st *Store) ForgetKeypair(name string) { st.keySets.forget(name) }
