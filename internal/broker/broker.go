// Package broker keeps access tokens between the vendors who issue them and the
// readers who use them: in memory over storage, with one exchange at a time for
// each credential. It knows nothing of HTTP, of fields or of Vault's answers.
package broker

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/provider"
)

// ErrUnknown means that no credential bears the name.
var ErrUnknown = errors.New("no such credential")

// errSuperseded ends an exchange whose credential has been changed meanwhile.
var errSuperseded = errors.New("the credential was changed meanwhile")

// renewTimeout bounds an exchange with all that belongs to it: loading, waiting
// for the hour, the vendor's calls (each of which has a timeout of its own) and
// the write.
const renewTimeout = 3 * time.Minute

// A Loader opens the credential of a name from storage; nil if there is none.
type Loader func(ctx context.Context, s logical.Storage, name string) (*Credential, error)

// A Credential is what an operator stored, ready to be exchanged.
type Credential struct {
	// Provider is the provider's name.
	Provider string

	// Generation tells this write of the credential from every other.
	Generation string

	// DefaultTTL is the lifetime of a token of which nothing else tells it.
	DefaultTTL time.Duration

	// Vendor does the exchange.
	Vendor provider.Credential

	// Verified is what the exchange found that checked the credential before it
	// was stored; nil if it was stored unchecked.
	Verified *State
}

// Broker is the cache of one mount.
type Broker struct {
	load Loader

	mu    sync.RWMutex
	names map[string]*entry
}

// New makes an empty Broker.
func New(load Loader) *Broker {
	return &Broker{load: load, names: map[string]*entry{}}
}

// entry is one name. It stays when its credential is changed or deleted, so that
// there is one exclusive right to a name at all times.
type entry struct {
	name string

	// exclusive is held by whoever calls the vendor or changes storage for this
	// name. It is a channel, not a mutex, so that a waiter can give up.
	exclusive chan struct{}

	flights singleflight.Group

	mu         sync.Mutex
	epoch      uint64 // counts the changes
	credential *Credential
	state      *State
}

// Read returns a token of the named credential that can be leased now: the cached
// one, or a fresh one.
func (b *Broker) Read(ctx context.Context, s logical.Storage, name string) (*Reading, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	for {
		credential, state, epoch := e.snapshot()
		if r := read(credential, state, time.Now()); r != nil {
			return r, nil
		}
		// A reader that started after a change must not join an exchange of before.
		flight := e.flights.DoChan(strconv.FormatUint(epoch, 10), func() (any, error) {
			// The exchange outlives the reader who caused it: others wait for it,
			// and what the vendor answers must be kept.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
			defer cancel()
			return b.renew(ctx, s, e, epoch)
		})
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case result := <-flight:
			if errors.Is(result.Err, errSuperseded) {
				continue
			}
			if result.Err != nil {
				return nil, result.Err
			}
			return result.Val.(*Reading), nil
		}
	}
}

// Change runs an operator's change to a name's configuration, with what is known
// of it so far. No exchange is in flight meanwhile; afterwards nothing that was
// known before is used again, whether the change succeeded or not.
func (b *Broker) Change(ctx context.Context, s logical.Storage, name string, change func(context.Context, *State) error) error {
	e := b.entry(name)
	if err := e.acquire(ctx); err != nil {
		return err
	}
	defer e.release()
	// Once it has begun, a change is seen through: the vendor may have replaced a
	// refresh token while verifying it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	state, err := b.current(ctx, s, e)
	if storage := (*StorageError)(nil); errors.As(err, &storage) {
		// What is known may hold the only refresh token that works.
		return err
	}
	defer e.reset()
	return change(ctx, state)
}

// Forget drops what is in memory of a name, to be loaded again.
func (b *Broker) Forget(name string) {
	b.mu.RLock()
	e := b.names[name]
	b.mu.RUnlock()
	if e != nil {
		e.reset()
	}
}

// known returns the entry of a name that has a credential, without making one for
// every name that somebody tries.
func (b *Broker) known(ctx context.Context, s logical.Storage, name string) (*entry, error) {
	b.mu.RLock()
	e := b.names[name]
	b.mu.RUnlock()
	if e != nil {
		return e, nil
	}
	credential, err := b.load(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if credential == nil {
		return nil, ErrUnknown
	}
	return b.entry(name), nil
}

func (b *Broker) entry(name string) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.names[name]
	if e == nil {
		e = &entry{name: name, exclusive: make(chan struct{}, 1)}
		b.names[name] = e
	}
	return e
}

func (e *entry) acquire(ctx context.Context) error {
	select {
	case e.exclusive <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry) release() { <-e.exclusive }

func (e *entry) snapshot() (*Credential, *State, uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.credential, e.state, e.epoch
}

// keep replaces what is in memory, unless the credential has changed since epoch.
func (e *entry) keep(c *Credential, s *State, epoch uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.epoch != epoch {
		return errSuperseded
	}
	e.credential, e.state = c, s
	return nil
}

func (e *entry) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.epoch++
	e.credential, e.state = nil, nil
}
