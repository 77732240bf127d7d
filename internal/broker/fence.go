package broker

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// fenceTime is how long the write may take to tell anything: a node that is suspended
	// meanwhile may find it done. It is less than any storage needs for another active
	// node. Storage that is always slower has fenceAttempts.
	fenceTime     = 500 * time.Millisecond
	fenceAttempts = 3
)

// fence has storage take a write before a refresh token is spent: one that the vendor
// has replaced before, so that he will replace it again. A node that was suspended or
// cut off may take itself for the active one although there is another by now. The
// refresh token in its memory has been used then, and the vendor may end a credential
// whose refresh token is used twice; but its storage takes no write. Nor is a vendor to
// be called whose answer could not be stored. Its error is of type *storage.Error.
func fence(ctx context.Context, s logical.Storage, spent provider.Grant) error {
	if spent.RefreshToken == "" || spent.Derived {
		return nil
	}
	for range fenceAttempts {
		began := wallClock()
		if err := storage.Retry(ctx, func() error { return storage.Probe(ctx, s) }); err != nil {
			return err
		}
		if wallClock().Sub(began) < fenceTime {
			break
		}
	}
	return nil
}

// wallClock is the time by the clock that goes on while the machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }
