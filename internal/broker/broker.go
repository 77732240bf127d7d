// Package broker keeps access tokens between the vendors who issue them and the
// readers who use them: in memory over storage, with one exchange at a time for
// each credential, ahead of its readers where somebody reads, and in the background
// where nobody does. It knows nothing of HTTP, of fields or of Vault's answers.
//
// The rules are pure functions (rules.go); what outlives the process is a State
// (state.go), and a view of it is what the readers of one scope see (view.go).
// Readers come in by read.go, operators by change.go and Vault's clock by sweep.go,
// and all have renew.go call the vendor, under the exclusive right to a name; close.go
// waits for that.
package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// ErrUnknown means that no credential bears the name.
var ErrUnknown = errors.New("no such credential")

// ErrBusy means that what was asked of the name before has taken too long.
var ErrBusy = errors.New("the credential is busy")

// errSuperseded ends a renewal whose credential has been changed meanwhile.
var errSuperseded = errors.New("the credential was changed meanwhile")

// A Credential is what an operator stored, ready to be exchanged.
type Credential struct {
	// Name is the credential's, Provider its provider's.
	Name     string
	Provider string

	// Generation tells this write of the credential from every other.
	Generation string

	// WriteTime is when the operator last wrote one of its secrets.
	WriteTime time.Time

	// Expires is when its secret expires at the vendor, as the operator knows; zero if they
	// have not said. About is what they say it is for.
	Expires time.Time
	About   string

	// TTL is what the operator says of the lifetime of its tokens.
	TTL provider.TTL

	// Keepalive is how often to exchange a credential that dies of disuse though
	// nobody reads it; zero is never.
	Keepalive time.Duration

	// Secrets are those that the operator stored.
	Secrets []string

	// Vendor does the exchange.
	Vendor provider.Credential

	// Scope is the credential's own, as provider.JoinScope has it; "" if only the
	// vendor knows.
	Scope string

	// SentTo are the places that its secrets are sent to, in a form that can be compared.
	SentTo []string

	// Verified is what the exchange found that checked the credential before it
	// was stored; nil if it was stored unchecked.
	Verified *State
}

// Source is where the broker learns of credentials.
type Source interface {
	// Credential opens the credential of a name from storage; nil if there is none.
	Credential(ctx context.Context, s logical.Storage, name string) (*Credential, error)

	// Names are the names of all credentials in storage.
	Names(ctx context.Context, s logical.Storage) ([]string, error)

	// Logger is where the broker logs. It takes no secret.
	Logger() hclog.Logger
}

// An Observer is told of exchanges, by whoever waits for them, and so must return at once.
type Observer interface {
	// Exchanged is told of each one as soon as the vendor has answered, and Kept of the
	// same once what came of it is stored, or cannot be.
	Exchanged(x Exchange)
	Kept(x Exchange)
}

// Broker is the cache of one mount.
type Broker struct {
	source   Source
	observer Observer

	mu    sync.RWMutex
	names map[string]*entry

	// slots are taken by the renewals that sweeps have under way.
	slots chan struct{}

	// swept is when the last sweep began, with the monotonic clock. Only the sweep uses it.
	swept time.Time

	// listed is whether every name in storage has an entry. Only the sweep uses it,
	// and Vault runs one at a time.
	listed bool

	// closed is closed once nothing is to begin any more.
	closed  chan struct{}
	closing sync.Once
}

// New makes an empty Broker.
func New(source Source, observer Observer) *Broker {
	return &Broker{source: source, observer: observer, names: map[string]*entry{}, slots: make(chan struct{}, sweepRenewals), closed: make(chan struct{})}
}

// entry is one name. It stays when its credential is changed, so that there is one
// exclusive right to a name at all times.
type entry struct {
	name string

	// exclusive is held by whoever calls the vendor or changes storage for this
	// name. It is a channel, not a mutex, so that a waiter can give up.
	exclusive chan struct{}
	closed    <-chan struct{} // the broker's

	// turn is held by the exchange of a dedicated role that has the exclusive right, or is
	// next to wait for it.
	turn chan struct{}

	// stays reports whether the name is stored, as far as is known. The entry of a name
	// that is not is dropped when the exclusive right to it is given back; gone tells
	// those who wait for that right.
	stays bool // under the broker's mu
	gone  bool // under the exclusive right

	flights singleflight.Group

	// stored is what storage has of the state in memory. It is of whoever has the exclusive
	// right to the name.
	stored *stored

	mu      sync.Mutex
	memory  memory
	uses    map[string]use // by scope
	renewal renewal

	// dedicating are how many exchanges of each dedicated role are under way, or wait.
	dedicating map[string]int

	// refreshes is what refreshes of the name are left, without dropping tokens and with it.
	refreshes [2]*rate.Limiter

	// allowances are those of dedicated roles, by name. They are of whoever has the exclusive
	// right to the name.
	allowances map[string]*allowance
}

// renewal is what has the exclusive right to a name, and since when: an exchange of a dedicated
// role, or what concerns all readers. The zero renewal is nothing.
type renewal struct {
	dedicated bool
	since     time.Time
}

// use is who wants the tokens of a scope.
type use struct {
	// wanted is whether somebody has read the token, or asked for one in vain, since
	// it was issued: it is renewed ahead of whoever that is. asked is whether
	// somebody has asked and not got it yet.
	wanted, asked bool

	// last is when somebody last asked, within useAccuracy.
	last time.Time
}

// useAccuracy spares most reads a note of when they were.
const useAccuracy = time.Minute

// abandoned is whether a scope that fails has no reader any more: nobody has asked for a while,
// in which there was no valid token.
func (u use) abandoned(v view, now time.Time) bool {
	token := v.token()
	return v.failure(now).Count > 0 && leaseTTL(token, now) == 0 && now.Sub(later(u.last, token.ExpireTime)) > refusalMemory
}

// known returns the entry of a name that has a credential, without making one for
// every name that somebody tries to read.
func (b *Broker) known(ctx context.Context, s logical.Storage, name string) (*entry, error) {
	b.mu.RLock()
	e := b.names[name]
	isStored := e != nil && e.stays
	b.mu.RUnlock()
	if isStored {
		return e, nil
	}
	credential, err := b.source.Credential(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if credential == nil {
		return nil, ErrUnknown
	}
	return b.stored(name), nil
}

// entries are all there are at the moment.
func (b *Broker) entries() []*entry {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Collect(maps.Values(b.names))
}

// look is what is known of the name now.
func (e *entry) look() memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.memory
}

// change changes what is known of the name, unless its credential has changed
// since epoch, and returns what it is then.
func (e *entry) change(epoch uint64, f func(*memory)) (memory, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.memory.epoch != epoch {
		return e.memory, errSuperseded
	}
	f(&e.memory)
	return e.memory, nil
}

// reset ends what is in memory of the credential, to be loaded again. An unsaved
// state stays until it is clear whether it belongs to what is loaded then.
func (e *entry) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.memory.credential != nil {
		e.memory.earlier = e.memory.earlierTokens()
	}
	e.reloadLocked()
	e.memory.dedicated, e.memory.early, e.memory.panicked = nil, nil, time.Time{}
	clear(e.uses)
}

// reload has the credential be loaded again. What readers do with its tokens stays.
func (e *entry) reload() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reloadLocked()
}

func (e *entry) reloadLocked() {
	e.memory.epoch++
	e.memory.credential, e.memory.state, e.memory.absent, e.memory.unusable = nil, nil, false, false
}

// issued notes that there is a new token of a scope. Of a reader who waited for it it
// is known that he comes back if he has used the last one. The caller holds e.mu.
func (e *entry) issued(scope string, last provider.Token) {
	u := e.uses[scope]
	e.uses[scope] = use{wanted: u.asked && inUse(last, time.Now()), last: u.last}
}

// refused notes that the vendor has rejected a scope: a narrower one is asked for again
// when somebody asks for it, for its role may have been mended, or deleted. The caller
// holds e.mu.
func (e *entry) refused(scope string, failure *provider.Error) {
	if scope != ownScope && failure.Kind == provider.Rejected {
		delete(e.uses, scope)
	}
}

// answered notes that whoever asked has got what there was. The caller holds e.mu.
func (e *entry) answered(scope string) {
	u := e.uses[scope]
	e.uses[scope] = use{wanted: u.wanted, last: u.last}
}

// renewing notes the renewal that is under way.
func (e *entry) renewing(r renewal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renewal = r
}

// current loads what storage has of a name, if it is not in memory yet. The caller
// has the exclusive right to the name.
func (b *Broker) current(ctx context.Context, s logical.Storage, e *entry) (memory, error) {
	for {
		m := e.look()
		if m.credential != nil {
			return m, nil
		}
		if time.Now().Before(m.panicked) {
			return m, ErrPanicked
		}
		credential, state, has, err := b.readCredential(ctx, s, e)
		if storage.IsError(err) {
			return m, err
		}
		loaded, superseded := e.change(m.epoch, func(m *memory) {
			m.credential, m.state, m.absent, m.panicked = credential, state, err != nil, time.Time{}
			m.unusable = m.absent && !errors.Is(err, ErrUnknown)
			if m.unsaved != nil && err == nil {
				m.unsaved = m.unsaved.after(state)
			}
			e.stored = has
		})
		// What another node wrote meanwhile is loaded anew.
		if superseded == nil {
			if errors.Is(err, ErrUnknown) { // a write that failed may have left the name
				b.setStays(e, false)
			}
			return loaded, err
		}
	}
}

// readCredential reads a credential and what belongs to it from storage.
func (b *Broker) readCredential(ctx context.Context, s logical.Storage, e *entry) (*Credential, *State, *stored, error) {
	credential, err := b.source.Credential(ctx, s, e.name)
	if err != nil {
		return nil, nil, nil, err
	}
	if credential == nil {
		return nil, nil, nil, ErrUnknown
	}
	all, err := readEntries(ctx, s, e.name)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, key := range all.damaged {
		b.source.Logger().Warn("a storage entry cannot be decoded: the next exchange replaces it", "name", e.name, "entry", key)
	}
	verified := credential.Verified
	if verified == nil {
		verified = Unverified(credential, provider.Grant{})
	}
	state, has := all.over(verified)
	return credential, state.seen(time.Now()), has, nil
}

// narrowed is what exchanges the credential for a scope.
func (c *Credential) narrowed(scope string) (provider.Credential, error) {
	if scope == ownScope {
		return c.Vendor, nil
	}
	return c.Vendor.Narrow(strings.Fields(scope))
}

func (b *Broker) logger(e *entry, v view) hclog.Logger {
	logger := b.source.Logger().With("name", e.name, "provider", v.credential.Provider)
	if v.scope != ownScope {
		logger = logger.With("scope", v.scope)
	}
	return logger
}

// skewWorthNoting is how far a vendor's clock may be off before it is logged, and
// how far it has to move to be logged again.
const skewWorthNoting = 5 * time.Second

// noteSkew logs a vendor's clock that is off.
func (b *Broker) noteSkew(e *entry, s *State) {
	if s.ClockSkew == nil {
		return
	}
	skew := *s.ClockSkew
	e.mu.Lock()
	news := skew.Abs() > skewWorthNoting && (skew-e.memory.loggedSkew).Abs() > skewWorthNoting
	if news {
		e.memory.loggedSkew = skew
	}
	e.mu.Unlock()
	switch logger := b.source.Logger().With("name", e.name, "vendor_ahead", skew.String()); {
	case !news:
	case skew.Abs() > provider.MaxSkew:
		logger.Warn("the vendor's clock and this server's differ by more than is believed, so that its Date is ignored")
	default:
		logger.Warn("the vendor's clock and this server's differ")
	}
}
