package credential

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A variant is a credential for one narrowing, with a state and a lock of its own. Roles whose narrowing
// depends on the reader have one for each. It has its own name in the broker: that of the credential,
// variantMark, and a digest of the narrowing, so that the values are in no log.
type variantEntry struct {
	storage.Format

	// Narrowing is the key of the narrowing.
	Narrowing string `json:"narrowing"`
}

// Check implements storage.Entry.
func (v *variantEntry) Check() error {
	if v.Narrowing == "" {
		return errors.New("variant without a narrowing")
	}
	return nil
}

const repairVariant = "the next read writes it again"

// variantDigest returns what identifies a narrowing among those of a credential.
func variantDigest(narrowing string) string {
	sum := sha256.Sum256([]byte(narrowing))
	return hex.EncodeToString(sum[:16])
}

// A TooManyVariantsError means that a credential has max_variants narrower tokens.
type TooManyVariantsError = broker.TooManyVariantsError

// variantCounts counts the variants in storage, by credential. It is safe for concurrent use.
type variantCounts struct {
	mu     sync.Mutex
	counts map[string]*variantCount
}

// A variantCount is the count of one credential.
type variantCount struct {
	// turn has an element while the count is in use, also while storage is read for it, so that only
	// readers of this credential wait, each as long as its request lasts.
	turn    chan struct{}
	n       int
	isKnown bool
}

// of returns the count of a credential.
func (v *variantCounts) of(name string) *variantCount {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.counts == nil {
		v.counts = map[string]*variantCount{}
	}
	if v.counts[name] == nil {
		v.counts[name] = &variantCount{turn: make(chan struct{}, 1)}
	}
	return v.counts[name]
}

// add adds to the count of a credential, if it is known.
func (v *variantCounts) add(name string, n int) {
	count := v.of(name)
	count.turn <- struct{}{}
	defer func() { <-count.turn }()
	count.n += n // if it is not known, the next read of storage replaces it
}

// forget forgets the count of a credential.
func (v *variantCounts) forget(name string) {
	count := v.of(name)
	count.turn <- struct{}{}
	defer func() { <-count.turn }()
	count.isKnown = false
}

// reserve adds one to the count of a credential, which it reads from storage at first. It reports whether
// there is room for it.
func (v *variantCounts) reserve(ctx context.Context, s logical.Storage, name string, most int) (hasRoom bool, err error) {
	count := v.of(name)
	select {
	case count.turn <- struct{}{}:
		defer func() { <-count.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if !count.isKnown {
		keys, err := storage.List(ctx, s, storage.VariantKey(name, ""))
		if err != nil {
			return false, err
		}
		count.n, count.isKnown = len(keys), true
	}
	if count.n >= most {
		return false, nil
	}
	count.n++
	return true, nil
}

// Variant returns the name of the variant of a credential for a narrowing, which it creates if necessary. Its
// errors are broker.ErrUnknown, broker.ErrBusy, *TooManyVariantsError, *provider.Error of kind Invalid and
// *storage.Error.
func (st *Store) Variant(ctx context.Context, s logical.Storage, name string, n provider.Narrowing) (string, error) {
	narrowing := n.Key()
	digest := variantDigest(narrowing)
	variant := broker.VariantName(name, digest)
	if st.broker.IsLoaded(variant) {
		return variant, nil
	}
	st.broker.LoadIfFree(ctx, s, name) // once for all variants
	exists, err := storage.Exists(ctx, s, storage.VariantKey(name, digest))
	if err != nil || exists {
		return variant, err
	}
	credential, err := st.whole(ctx, s, name)
	switch {
	case err != nil:
		return "", err
	case credential == nil:
		return "", broker.ErrUnknown
	}
	if _, err := narrowedFor(credential, n); err != nil {
		return "", err
	}
	return variant, st.createVariant(ctx, s, credential, digest, narrowing)
}

// whole returns the credential of a variant: that in memory, or else that in storage. A change forgets first
// the credential and then its variants, so that no variant of the former one stays.
func (st *Store) whole(ctx context.Context, s logical.Storage, name string) (*broker.Credential, error) {
	if c := st.broker.Loaded(name); c != nil {
		return c, nil
	}
	return st.Credential(ctx, s, name)
}

// narrowedFor returns a credential for the narrowing of one reader.
func narrowedFor(c *broker.Credential, n provider.Narrowing) (provider.Credential, error) {
	if c.UsesRefreshToken {
		return nil, provider.Errorf(provider.Invalid, "the credential %s has a refresh token, which is one person's or service's, so a role cannot give each reader a token of its own", c.Path)
	}
	return c.Narrow(n)
}

// createVariant stores a variant, unless another reader has done so meanwhile. It holds the lock of the
// variant only, so that many readers can begin at once.
func (st *Store) createVariant(ctx context.Context, s logical.Storage, c *broker.Credential, digest, narrowing string) error {
	unlock, err := st.broker.Lock(pacing.With(ctx, pacing.NewAdmission(c.Name, pacing.Awaited)), broker.VariantName(c.Name, digest))
	if err != nil {
		return err
	}
	defer unlock()
	key := storage.VariantKey(c.Name, digest)
	if exists, err := storage.Exists(ctx, s, key); err != nil || exists {
		return err
	}
	hasRoom, err := st.variants.reserve(ctx, s, c.Name, c.MaxVariants-st.broker.CountNarrower(c.Name))
	if err != nil {
		return err
	}
	if !hasRoom {
		return &TooManyVariantsError{Path: c.Path, Max: c.MaxVariants}
	}
	if err := storage.Put(ctx, s, key, &variantEntry{Narrowing: narrowing}); err != nil {
		st.variants.forget(c.Name) // the write may have succeeded
		return err
	}
	// A deletion of the credential deletes it first, and then the variants that it finds.
	isThere, err := storage.Exists(ctx, s, storage.CredentialKey(c.VendorName, c.Name))
	if err != nil || isThere {
		return err
	}
	st.variants.forget(c.Name)
	return errors.Join(broker.ErrUnknown, storage.Delete(ctx, s, key))
}

// variant returns a variant ready to be exchanged; nil if there is none.
func (st *Store) variant(ctx context.Context, s logical.Storage, base, digest string) (*broker.Credential, error) {
	entry, err := storage.Get[variantEntry](ctx, s, storage.VariantKey(base, digest), repairVariant)
	if err != nil || entry == nil {
		return nil, err
	}
	whole, err := st.whole(ctx, s, base)
	if err != nil || whole == nil {
		return nil, err
	}
	n := provider.ParseNarrowing(entry.Narrowing)
	own := *whole
	if own.Vendor, err = narrowedFor(whole, n); err != nil {
		return nil, err
	}
	own.Formers = nil
	for _, former := range whole.Formers {
		if former.Vendor = former.Narrowed(entry.Narrowing); former.Vendor != nil {
			own.Formers = append(own.Formers, former)
		}
	}
	own.Name, own.Narrowing = broker.VariantName(base, digest), entry.Narrowing
	own.Generation = whole.Generation + broker.VariantMark + digest
	own.Scope, own.WholeScope = provider.JoinScope(own.Vendor.Scope()), whole.Scope
	own.Verified, own.Keepalive, own.MaxVariants = nil, 0, 0
	return &own, nil
}

// variantNames returns the names of all variants.
func (st *Store) variantNames(ctx context.Context, s logical.Storage) ([]string, error) {
	bases, err := storage.Folders(ctx, s, storage.VariantsPrefix)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, base := range bases {
		digests, err := storage.List(ctx, s, storage.VariantKey(base, ""))
		if err != nil {
			return nil, err
		}
		for _, digest := range digests {
			names = append(names, broker.VariantName(base, digest))
		}
	}
	return names, nil
}

// maxPrunes is how many variants one call of PruneVariants deletes.
const maxPrunes = 200

// PruneVariants deletes variants that nobody has read for longer than the lifetime of their last token.
func (st *Store) PruneVariants(ctx context.Context, s logical.Storage) error {
	for _, name := range st.broker.IdleVariants(maxPrunes) {
		if _, err := st.dropVariant(ctx, s, name); err != nil {
			return err
		}
	}
	return nil
}

// TryVariant exchanges one variant of a credential that has no token of its own. Its error means that the vendor is not
// available, so that the tokens of the others must stay.
func (st *Store) TryVariant(ctx context.Context, s logical.Storage, base string) error {
	credential, err := st.Credential(ctx, s, base)
	if err != nil || credential == nil || provider.LackOf(credential.Vendor) == "" {
		return err
	}
	digests, err := storage.List(ctx, s, storage.VariantKey(base, ""))
	if err != nil || len(digests) == 0 {
		return err
	}
	_, err = st.broker.Refresh(ctx, s, broker.VariantName(base, digests[0]), false)
	var exchange *broker.ExchangeError
	if errors.Is(err, broker.ErrUnknown) || errors.As(err, &exchange) && exchange.Err.Kind == provider.Rejected {
		return nil // it was pruned, or it is rejected by a vendor that is available
	}
	return err
}

// DropVariants deletes all variants of a credential, so that their next readers get new tokens. Where
// revokes is set, it then revokes the tokens where the vendor supports that. Its errors are broker.ErrBusy and
// of type *storage.Error.
func (st *Store) DropVariants(ctx context.Context, s logical.Storage, base string, revokes bool) error {
	digests, err := storage.List(ctx, s, storage.VariantKey(base, ""))
	if err != nil {
		return err
	}
	var dropped []broker.Dropped
	for _, digest := range digests {
		one, err := st.dropVariant(ctx, s, broker.VariantName(base, digest))
		if err != nil {
			return err
		}
		dropped = append(dropped, one)
	}
	if revokes {
		st.broker.RevokeVariants(ctx, base, dropped)
	}
	return nil
}

// DropVariantTokens drops and revokes the tokens of all variants of a credential. The variants stay until these
// tokens have expired, since the vendor may return them again. Its errors are those of DropVariants.
func (st *Store) DropVariantTokens(ctx context.Context, s logical.Storage, base string) error {
	digests, err := storage.List(ctx, s, storage.VariantKey(base, ""))
	if err != nil {
		return err
	}
	var dropped []broker.Dropped
	for _, digest := range digests {
		one, err := st.broker.DropTokens(ctx, s, broker.VariantName(base, digest))
		switch invalid := (*provider.Error)(nil); {
		case err == nil:
			dropped = append(dropped, one)
		case errors.Is(err, broker.ErrUnknown), errors.As(err, &invalid): // it is not served
		default:
			return err
		}
	}
	st.broker.RevokeVariants(ctx, base, dropped)
	return nil
}

// dropVariant deletes a variant and its state, and returns them.
func (st *Store) dropVariant(ctx context.Context, s logical.Storage, name string) (broker.Dropped, error) {
	ctx, changes, err := st.broker.BeginDelete(ctx, s, name)
	if err != nil {
		return broker.Dropped{}, err
	}
	defer changes.End()
	change := changes.Of(name)
	dropped := broker.Dropped{Credential: change.Credential, State: change.Known}
	base, digest, _ := strings.Cut(name, broker.VariantMark)
	if err := broker.DeleteState(ctx, s, name); err != nil {
		return dropped, change.Failed(ctx, nil, err)
	}
	if err := storage.Delete(ctx, s, storage.VariantKey(base, digest)); err != nil {
		st.variants.forget(base)
		return dropped, change.Failed(ctx, nil, err)
	}
	st.variants.add(base, -1)
	change.Deleted()
	return dropped, nil
}

// ForgetVariant drops what is cached of a variant whose entry another node has written.
func (st *Store) ForgetVariant(key string) {
	base, digest, _ := strings.Cut(strings.TrimPrefix(key, storage.VariantsPrefix), "/")
	st.variants.forget(base)
	st.broker.Forget(broker.VariantName(base, digest))
}
