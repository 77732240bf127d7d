package tokenbroker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// leaseEntry is a dedicated token in storage. The last part of its key is its expiry, in Unix
// seconds, and its SHA-256.
type leaseEntry struct {
	storage.Format

	AccessToken string `json:"access_token"`

	// SentTo is where the credential that the token was exchanged for sends its secrets:
	// the token is sent nowhere else to be revoked.
	SentTo destinations `json:"sent_to"`
}

// Check is for storage.Get.
func (e *leaseEntry) Check() error {
	if e.AccessToken == "" {
		return errors.New("a lease without a token")
	}
	return nil
}

// dropTimeout bounds what revoking the dedicated tokens of a deleted credential may take.
const dropTimeout = 30 * time.Second

// dedicate exchanges a role's credential for a token of its reader's own, and returns
// the key that it is stored under.
func (b *backend) dedicate(ctx context.Context, s logical.Storage, name string, r *role, wish broker.Wish) (*broker.Reading, string, error) {
	prefix := storage.LeaseKey(r.Config, name, r.Leases, "")
	var key string
	var others []string // that are leased; none is added meanwhile
	reading, err := b.broker.Dedicate(ctx, s, r.Config, wish, broker.Dedication{
		Role: name, Most: r.exchanges(),
		Admit: func(ctx context.Context) error {
			var err error
			others, err = living(ctx, s, r.Config)
			leased := slices.DeleteFunc(slices.Clone(others), func(key string) bool { return !strings.HasPrefix(key, prefix) })
			if err == nil && r.MaxLeases > 0 && len(leased) >= r.MaxLeases {
				err = logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s%s has its max_leases of %d: revoke one, or wait for one to end; after vault lease revoke -force, write forget_leases=true to the role", rolesPrefix, name, r.MaxLeases))
			}
			return err
		},
		IsLeased: func(accessToken string) bool {
			return slices.ContainsFunc(others, func(key string) bool { return strings.HasSuffix(key, "-"+leaseID(accessToken)) })
		},
		Keep: func(ctx context.Context, reading *broker.Reading) error {
			to, err := b.destinationsNow(ctx, s, r.Config)
			if err != nil {
				return err
			}
			key = prefix + strconv.FormatInt(reading.ExpireTime.Unix(), 10) + "-" + leaseID(reading.AccessToken)
			return storage.Retry(ctx, func() error {
				return storage.Put(ctx, s, key, &leaseEntry{AccessToken: reading.AccessToken, SentTo: to})
			})
		},
	})
	var many *broker.TooManyError
	if errors.As(err, &many) {
		err = logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s%s: %s: the next one may be at %s; keep the lease instead of reading again, or raise max_exchanges", rolesPrefix, name, many, broker.FormatTime(roundUp(many.Next))))
	}
	if errors.Is(err, broker.ErrCrowded) {
		err = logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s%s: %s, and the vendor answers one at a time; try again later", rolesPrefix, name, err))
	}
	if err == nil && ctx.Err() != nil {
		// The reader has gone: no lease will come of it, and nobody would revoke it.
		err = errors.Join(ctx.Err(), b.revokeDedicated(context.WithoutCancel(ctx), s, r.Config, key))
	}
	return reading, key, err
}

// leaseID is what the key of a dedicated token ends with.
func leaseID(accessToken string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(accessToken)))
}

// dedicatedOf are the keys of the dedicated tokens of a credential. Nothing else is looked
// at, however much there is in storage.
func dedicatedOf(ctx context.Context, s logical.Storage, config string) ([]string, error) {
	return storage.Collect(ctx, s, storage.LeaseKey(config, "", "", ""))
}

// leaseMemory is how long the entry of a dedicated token stays after the token has expired by
// this server's clock, which may have been stepped, and be set back.
const leaseMemory = 24 * time.Hour

// living are the keys of the dedicated tokens of a credential that have not expired. Those that
// expired longer than leaseMemory ago are removed.
func living(ctx context.Context, s logical.Storage, config string) ([]string, error) {
	keys, err := dedicatedOf(ctx, s, config)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, key := range keys {
		switch age := time.Since(expireTimeOf(key)); {
		case age < 0:
			left = append(left, key)
		case age > leaseMemory:
			if err := storage.Delete(ctx, s, key); err != nil {
				return nil, err
			}
		}
	}
	return left, nil
}

// isDead is whether the token of a key has died.
func isDead(key string) bool { return !time.Now().Before(expireTimeOf(key)) }

// expireTimeOf is when the token of a key expires; the zero time if the key does not say.
func expireTimeOf(key string) time.Time {
	seconds, _, _ := strings.Cut(key[strings.LastIndex(key, "/")+1:], "-")
	expire, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(expire, 0)
}

// revokeDedicated ends the token of a lease at the vendor. If it cannot, Vault tries
// again; a token that is dead, or whose credential has been deleted, is done with.
func (b *backend) revokeDedicated(ctx context.Context, s logical.Storage, config, key string) error {
	if err := b.endDedicated(ctx, ctx, s, config, key); err != nil {
		return err
	}
	return storage.Delete(ctx, s, key)
}

// endDedicated ends the token of a key at the vendor, who is asked for as long as asking
// lasts. What storage would not do is an error of type *storage.Error.
func (b *backend) endDedicated(ctx, asking context.Context, s logical.Storage, config, key string) error {
	entry, err := storage.Get[leaseEntry](ctx, s, key, "delete it")
	switch {
	case storage.IsError(err):
		return err
	case isDead(key) || err == nil && entry == nil:
		return nil
	case err != nil:
		return err
	}
	to, err := b.destinationsNow(ctx, s, config)
	if err != nil {
		return err
	}
	if !to.within(entry.SentTo) {
		b.Logger().Warn("the token is not revoked, as the credential's URLs have changed, and is valid until it expires", "name", config)
		return nil
	}
	err = b.broker.Revoke(asking, s, config, entry.AccessToken)
	var vendor *provider.Error
	switch {
	case errors.Is(err, broker.ErrUnknown):
		return nil
	case errors.As(err, &vendor) && (vendor.Code == "unsupported_token_type" || vendor.Code == "unauthorized_client"):
		// Such tokens, or those of the client that the credential had before, will never
		// be: a lease that cannot end would pile up with others.
		b.Logger().Warn("the vendor does not revoke the token, which lives until it dies", "name", config, "error", vendor.Reason)
		return nil
	case errors.As(err, &vendor):
		return fmt.Errorf("the token cannot be revoked at the vendor: %s", vendor.Reason)
	}
	return err
}

// destinationsNow are where a credential sends its secrets as it is stored; none if there is
// no such credential.
func (b *backend) destinationsNow(ctx context.Context, s logical.Storage, config string) (destinations, error) {
	p, stored, err := findConfig(ctx, s, config)
	if err != nil || stored == nil {
		return nil, err
	}
	return b.sentTo(p, config, stored), nil
}

// dropDedicated revokes, as well as it can, the dedicated tokens of a credential that
// is about to be deleted. Its error is what storage would not do: without the credential
// nobody could revoke them later.
func (b *backend) dropDedicated(ctx context.Context, s logical.Storage, config string) error {
	asking, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	keys, err := dedicatedOf(ctx, s, config)
	if err != nil {
		return err
	}
	for _, key := range keys {
		err := b.endDedicated(ctx, asking, s, config, key)
		switch {
		case storage.IsError(err):
			return err
		case err != nil:
			b.Logger().Warn("a dedicated token of a deleted credential cannot be revoked", "name", config, "error", err)
		}
		if err := storage.Delete(ctx, s, key); err != nil {
			return err
		}
	}
	return nil
}
