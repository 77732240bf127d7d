package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A TooManyLeasesError means that a dedicated role has reached max_leases.
type TooManyLeasesError struct{ Max int }

func (e *TooManyLeasesError) Error() string { return fmt.Sprintf("%d tokens are leased", e.Max) }

// A leaseEntry is a dedicated token in storage.
type leaseEntry struct {
	storage.Format

	AccessToken string `json:"access_token"`

	// SentTo lists the destinations of the credential's secrets at the time of the lease. Only they
	// may get the token when it is revoked. (Guarantee 13.)
	SentTo []string `json:"sent_to"`

	// IsIrrevocable is whether the vendor cannot revoke the token.
	IsIrrevocable bool `json:"irrevocable,omitempty"`
}

// Check returns an error for an entry that the engine never writes.
func (e *leaseEntry) Check() error {
	if e.AccessToken == "" {
		return errors.New("a lease without a token")
	}
	return nil
}

const (
	// leaseRetention is how long after its expiry a dedicated token is deleted. This server's clock
	// may have been stepped forward, and may be set back.
	leaseRetention = 24 * time.Hour

	// revokeLeasesTimeout bounds the revocation of all dedicated tokens of a deleted credential.
	revokeLeasesTimeout = 30 * time.Second
)

// leases are the keys of the dedicated tokens of a credential that have not expired.
type leases []string

// readLeases returns the leases of a credential, and deletes the entries of tokens that expired
// more than leaseRetention ago. The error is of type *storage.Error.
func readLeases(ctx context.Context, s logical.Storage, name string) (leases, error) {
	keys, err := storage.Collect(ctx, s, storage.LeasesPrefix(name))
	if err != nil {
		return nil, err
	}
	var left leases
	for _, key := range keys {
		switch age := time.Since(storage.LeaseExpiry(key)); {
		case age < 0:
			left = append(left, key)
		case age > leaseRetention:
			if err := storage.Delete(ctx, s, key); err != nil {
				return nil, err
			}
		}
	}
	return left, nil
}

// checkLimit returns an error, of type *TooManyLeasesError, if a role has reached its MaxLeases.
func (ls leases) checkLimit(name string, d Dedication) error {
	prefix, count := storage.SeriesPrefix(name, d.Role, d.Series), 0
	for _, key := range ls {
		if strings.HasPrefix(key, prefix) {
			count++
		}
	}
	if d.MaxLeases > 0 && count >= d.MaxLeases {
		return &TooManyLeasesError{Max: d.MaxLeases}
	}
	return nil
}

// has reports whether a token is leased already.
func (ls leases) has(accessToken string) bool {
	return slices.ContainsFunc(ls, func(key string) bool { return storage.IsLeaseOf(key, accessToken) })
}

// putLease stores the lease of a token, and returns its key.
func putLease(ctx context.Context, s logical.Storage, c *Credential, d Dedication, token provider.Token) (string, error) {
	key := storage.LeaseKey(c.Name, d.Role, d.Series, token.AccessToken, token.ExpireTime)
	return key, storage.Retry(ctx, func() error {
		return storage.Put(ctx, s, key, &leaseEntry{AccessToken: token.AccessToken, SentTo: c.SentTo, IsIrrevocable: !d.revokes})
	})
}

// leasePatience is how long the revocation of a lease waits for its turn, within the time of Vault's request. Vault
// gives up after six attempts.
const leasePatience = time.Minute

// RevokeLease revokes the token of a lease at the vendor, and deletes the lease. If it returns an
// error, Vault tries again. It does not revoke a token that has expired or whose credential has
// been deleted.
func (b *Broker) RevokeLease(ctx context.Context, s logical.Storage, name, key string) error {
	vendorCtx := pacing.With(ctx, pacing.NewAdmission(name, pacing.Ahead).Patient(leasePatience))
	if err := b.revokeLease(ctx, vendorCtx, s, name, key); err != nil {
		return err
	}
	return storage.Delete(ctx, s, key)
}

// RevokeLeases revokes the dedicated tokens of a credential that is being deleted, and deletes
// their leases. It logs the tokens that the vendor does not revoke. The error is of type
// *storage.Error.
func (b *Broker) RevokeLeases(ctx context.Context, s logical.Storage, name string) error {
	vendorCtx, cancel := context.WithTimeout(ctx, revokeLeasesTimeout)
	defer cancel()
	keys, err := storage.Collect(ctx, s, storage.LeasesPrefix(name))
	if err != nil {
		return err
	}
	for _, key := range keys {
		err := b.revokeLease(ctx, vendorCtx, s, name, key)
		switch {
		case storage.IsError(err):
			return err
		case err != nil:
			b.source.Logger().Warn("a dedicated token of a deleted credential cannot be revoked", "name", name, "error", err)
		}
		if err := storage.Delete(ctx, s, key); err != nil {
			return err
		}
	}
	return nil
}

// revokeLease revokes the token of a lease. It calls the vendor with vendorCtx.
func (b *Broker) revokeLease(ctx, vendorCtx context.Context, s logical.Storage, name, key string) error {
	entry, err := storage.Get[leaseEntry](ctx, s, key, "delete it")
	switch {
	case storage.IsError(err):
		return err
	case !time.Now().Before(storage.LeaseExpiry(key)) || err == nil && entry == nil:
		return nil
	case err != nil:
		return err
	case entry.IsIrrevocable:
		return nil
	}
	snap, err := b.lookup(ctx, s, name)
	switch {
	case errors.Is(err, ErrUnknown):
		return nil
	case err != nil:
		return err
	}
	isSentElsewhere := slices.ContainsFunc(snap.credential.SentTo, func(to string) bool { return !slices.Contains(entry.SentTo, to) })
	if isSentElsewhere {
		b.source.Logger().Warn("the token is not revoked because the credential's URLs have changed; it is valid until it expires", "name", name)
		return nil
	}
	err = snap.revoke(vendorCtx, entry.AccessToken)
	var vendor *provider.Error
	switch {
	case errors.As(err, &vendor) && (vendor.Code == "unsupported_token_type" || vendor.Code == "unauthorized_client"):
		// The vendor never revokes such tokens, or those of a former client of the credential. An
		// error would keep the lease in Vault for ever.
		b.source.Logger().Warn("the vendor does not revoke the token; it is valid until it expires", "name", name, "error", vendor.Reason)
		return nil
	case errors.As(err, &vendor):
		return fmt.Errorf("the token cannot be revoked at the vendor: %s", vendor.Reason)
	}
	return err
}
