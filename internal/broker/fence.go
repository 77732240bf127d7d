package broker

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"
)

// fenceKey is what is written to see whether storage takes a write.
const fenceKey = "fence"

// fence has storage take a write before a refresh token is spent: one that the vendor
// has replaced before, so that he will replace it again. A node that was suspended or
// cut off may take itself for the active one although there is another by now. The
// refresh token in its memory has been used then, and the vendor may end a credential
// whose refresh token is used twice; but its storage takes no write. Nor is a vendor to
// be called whose answer could not be stored.
func (b *Broker) fence(ctx context.Context, s logical.Storage, v view) error {
	if grant := v.state.grant(v.scope); grant.RefreshToken == "" || grant.Derived {
		return nil
	}
	return Retry(ctx, func() error {
		if err := s.Put(ctx, &logical.StorageEntry{Key: fenceKey, Value: []byte("{}")}); err != nil {
			return &StorageError{err}
		}
		return nil
	})
}
