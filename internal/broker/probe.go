package broker

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// probeTime is how fast a write must be to prove anything: a node that is suspended during it
	// may find it done. No storage makes another node active in less. Storage that is always
	// slower has probeAttempts.
	probeTime     = 500 * time.Millisecond
	probeAttempts = 3
)

// probeWritable checks that storage takes writes before a refresh token is used that the vendor has
// rotated before, and so will rotate again. A node that was suspended or cut off may believe that
// it is active although another node is. That one has used the refresh token in this node's
// memory by now, and some vendors end a credential whose refresh token is used twice; but this
// node's storage refuses writes. Nor must a vendor be called whose answer could not be stored. Its
// error is of type *storage.Error.
func probeWritable(ctx context.Context, s logical.Storage, used provider.Grant) error {
	if used.RefreshToken == "" || used.Derived {
		return nil
	}
	for range probeAttempts {
		began := wallClock()
		if err := storage.Retry(ctx, func() error { return storage.Probe(ctx, s) }); err != nil {
			return err
		}
		if wallClock().Sub(began) < probeTime {
			break
		}
	}
	return nil
}

// wallClock returns the time by the clock that goes on while the machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }
