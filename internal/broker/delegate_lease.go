package broker

import (
	"context"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// The same request yields the same token while it is cached, so that several leases may have a token. It is
// revoked at the vendor when the last of them ends.

// putDelegated stores a lease of a caller's token, and returns its key. The error is errSuperseded if the token
// was revoked or replaced in the meantime.
func (b *Broker) putDelegated(ctx context.Context, s logical.Storage, r *record, snap snapshot, key delegationKey, t provider.Token) (lease string, err error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return "", err
	}
	lease = storage.DelegatedKey(r.name, t.AccessToken, id, t.ExpireTime)
	err = storage.Retry(ctx, func() error {
		return storage.Put(ctx, s, lease, &leaseEntry{AccessToken: t.AccessToken, SentTo: snap.credential.SentTo})
	})
	if err != nil {
		return "", err
	}
	// RevokeDelegated drops the token first, and then looks for leases. A newer token may also have taken its place. If
	// no other lease has the token, nothing else would revoke it.
	if r.get().epoch == snap.epoch && len(t.AccessToken) <= maxCachedToken && !r.delegationsOf(snap.epoch).has(key, t.AccessToken) {
		if err := b.RevokeDelegated(ctx, s, r.name, lease); err != nil {
			return "", err
		}
		return "", errSuperseded
	}
	return lease, nil
}

// RevokeDelegated ends a lease of a caller's token. It revokes the token at the vendor if no other lease has it.
// If it returns an error, Vault tries again.
func (b *Broker) RevokeDelegated(ctx context.Context, s logical.Storage, name, lease string) error {
	// Of two leases that end together, the second revokes the token.
	unlock, err := b.locks.lock(ctx, storage.DelegatedPrefix(lease))
	if err != nil {
		return err
	}
	isLast, err := isLastLease(ctx, s, lease)
	if err == nil && isLast {
		if isLast, err = b.dropDelegated(ctx, s, name, lease); err == nil && isLast {
			unlock()
			return b.RevokeLease(ctx, s, name, lease)
		}
	}
	defer unlock()
	if err != nil {
		return err
	}
	return storage.Delete(ctx, s, lease)
}

// dropDelegated drops the token of a lease, so that nobody else gets it, and reports whether no other lease has
// it.
func (b *Broker) dropDelegated(ctx context.Context, s logical.Storage, name, lease string) (isLast bool, err error) {
	entry, err := storage.Get[leaseEntry](ctx, s, lease, "delete it")
	if storage.IsError(err) {
		return false, err
	}
	if r := b.cached(name); r != nil && entry != nil && err == nil {
		r.delegationsOf(r.get().epoch).drop(entry.AccessToken)
	}
	return isLastLease(ctx, s, lease)
}

// isLastLease reports whether no other lease has the token of a lease.
func isLastLease(ctx context.Context, s logical.Storage, lease string) (bool, error) {
	keys, err := storage.Collect(ctx, s, storage.DelegatedPrefix(lease))
	if err != nil {
		return false, err
	}
	for _, key := range keys {
		if key != lease && time.Now().Before(storage.LeaseExpiry(key)) {
			return false, nil
		}
	}
	return true, nil
}
