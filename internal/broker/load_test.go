package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// slowSource is a source with slow storage and a slow vendor.
type slowSource struct {
	storageTime time.Duration
	vendorTime  time.Duration
	isDown      bool
	loads       atomic.Int32
}

func (s *slowSource) Credential(ctx context.Context, _ logical.Storage, name string) (*Credential, error) {
	s.loads.Add(1)
	select {
	case <-time.After(s.storageTime):
	case <-ctx.Done():
		return nil, &storage.Error{Err: ctx.Err()}
	}
	if s.isDown {
		return nil, &storage.Error{Err: errors.New("down")}
	}
	return &Credential{Name: name, VendorName: "slow", Generation: "g", Vendor: slowVendor{takes: s.vendorTime}}, nil
}

func (*slowSource) Names(context.Context, logical.Storage) ([]string, error) { return nil, nil }
func (*slowSource) Logger() hclog.Logger                                     { return hclog.NewNullLogger() }

type slowVendor struct {
	instantVendor
	takes time.Duration
}

func (v slowVendor) Exchange(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	time.Sleep(v.takes)
	return v.instantVendor.Exchange(ctx, last)
}

func TestLoadOutlivesItsReader(t *testing.T) {
	for name, given := range map[string]func(context.Context, *Broker, logical.Storage){
		"not cached": func(context.Context, *Broker, logical.Storage) {},
		"forgotten": func(ctx context.Context, b *Broker, s logical.Storage) {
			_, _ = b.Read(ctx, s, "a", ReadRequest{})
			b.Forget("a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := &slowSource{}
				b, s := New(source, ignoreExchanges{}), &logical.InmemStorage{}
				given(t.Context(), b, s)
				source.storageTime = 3500 * time.Millisecond // the load must not end together with a reader
				source.loads.Store(0)
				for range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, err := b.Read(ctx, s, "a", ReadRequest{})
					cancel()
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := b.Read(ctx, s, "a", ReadRequest{})
				require.NoError(t, err)
				assert.EqualValues(t, 1, source.loads.Load())
			})
		})
	}
}

func TestReadersShareAFailedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowSource{storageTime: 2 * time.Second, isDown: true}
		b, s := New(source, ignoreExchanges{}), &logical.InmemStorage{}
		began := time.Now()
		var readers sync.WaitGroup
		for range 50 {
			readers.Go(func() {
				_, err := b.Read(t.Context(), s, "a", ReadRequest{})
				assert.True(t, storage.IsError(err), "%v", err)
			})
		}
		readers.Wait()
		assert.Equal(t, 2*time.Second, time.Since(began))
		assert.EqualValues(t, 1, source.loads.Load())
	})
}

// A change of two credentials holds the lock of the first while it waits for the lock of the
// second, whose vendor is slow.
func TestGuarantee11ReadersDoNotWaitForAChangeThatWaitsForAnotherName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowSource{}
		b, s := New(source, ignoreExchanges{}), &logical.InmemStorage{}
		_, err := b.Read(t.Context(), s, "a", ReadRequest{})
		require.NoError(t, err)
		time.Sleep(50 * time.Minute) // renewal is due
		source.vendorTime = 40 * time.Second
		go func() { _, _ = b.Read(t.Context(), s, "b", ReadRequest{}) }()
		synctest.Wait()
		go func() {
			_, changes, err := b.BeginWrites(t.Context(), s, "b", "a", "a")
			if assert.NoError(t, err) {
				changes.End()
			}
		}()
		time.Sleep(10 * time.Second)
		began := time.Now()
		token, err := b.Read(t.Context(), s, "a", ReadRequest{})
		require.NoError(t, err)
		assert.Equal(t, Stale, token.Outcome)
		assert.Zero(t, time.Since(began))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, b.locks.lockedNames())
	})
}

func TestCloseWaitsForAnyLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(&slowSource{}, ignoreExchanges{})
		unlock, err := b.Lock(t.Context(), "keypair/x", "role")
		require.NoError(t, err)
		time.AfterFunc(500*time.Millisecond, unlock)
		began := time.Now()
		b.Close(t.Context())
		assert.Equal(t, 500*time.Millisecond, time.Since(began))
	})
}
