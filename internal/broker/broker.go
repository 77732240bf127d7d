// Package broker caches access tokens in memory, backed by storage, so that many readers share one
// exchange with the vendor. Each credential has at most one exchange in flight. The package renews
// a token that is in use before it expires, and exchanges in the background a credential that would
// expire from disuse. It does not deal with HTTP, requests or Vault's responses, but its errors and
// warnings name the fields that operators can change, such as max_ttl.
//
// A State holds the result of a credential's exchanges (state.go). Storage has it in several
// entries (entries.go, save.go). A snapshot is what is cached of one name: the State and more
// (snapshot.go). The index has every name (index.go); names that nobody reads have only a summary there (evict.go). The rules are pure functions (rules.go), and decide.go applies them: it decides
// whether a token is served or renewed. The entry points are read.go for readers, dedicate.go
// and lease.go for those of dedicated roles, forced_refresh.go, change.go and status.go for
// operators, and sweep.go for Vault's periodic function. Every exchange goes through callVendor in
// exchange.go, under the lock of the name (lock.go), but for those of callers' tokens (delegate.go), which neither
// use nor change the State. A revocation (revoke.go) is not an exchange, and that of a lease needs no lock.
package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// ErrUnknown means that no credential has the name.
var ErrUnknown = errors.New("no such credential")

// ErrBusy means that another request for the same name did not end in time.
var ErrBusy = errors.New("the credential is busy")

// errSuperseded ends a renewal when the credential has changed in the meantime.
var errSuperseded = errors.New("the credential has changed in the meantime")

// A Source reads the credentials that operators stored.
type Source interface {
	// Credential reads the named credential from storage and opens it. It returns nil if there is
	// none.
	Credential(ctx context.Context, s logical.Storage, name string) (*Credential, error)

	// Names returns the names of all credentials in storage.
	Names(ctx context.Context, s logical.Storage) ([]string, error)

	// Logger returns the logger of the mount. The broker logs no secret.
	Logger() hclog.Logger
}

// An Observer records exchanges. Its methods must return at once, since readers wait for them.
type Observer interface {
	// Exchanged reports an exchange as soon as the vendor has answered.
	Exchanged(x Exchange)

	// Finished reports the same exchange once its result is stored or cannot be stored.
	// x.IsModified is set if readers get another token from now on.
	Finished(x Exchange)
}

// A Broker is the token cache of one mount. Its methods may be called concurrently, except Sweep,
// which Vault runs once at a time.
type Broker struct {
	source   Source
	observer Observer
	locks    *locks

	// mu guards the index (index.go). It is locked before that of a record.
	mu      sync.RWMutex
	entries map[string]*entry
	queue   queue

	// variants are the entries of variants, by the name of their credential and by their own. clients are those of
	// credentials, by the name of the client that each used when it was last read, and by their own.
	variants, clients map[string]map[string]*entry

	// What sweeps have found, by name: secrets to rotate, variants that nobody reads, and expiries that may be news.
	rotationsDue, idle map[string]bool
	expiries           map[string]Expiry

	touches touches

	// loads deduplicates the loads that readers wait for.
	loads singleflight.Group

	// slots limits the concurrent renewals in the background.
	slots chan struct{}

	// swept is when the last sweep began, with a monotonic reading. Only Sweep uses it.
	swept time.Time

	// listed is whether every name in storage has an entry. Only Sweep uses it.
	listed bool

	// pacer paces all requests to vendors.
	pacer *pacing.Pacer

	// Close closes closed. Nothing begins after that.
	closed  chan struct{}
	closing sync.Once
}

// New returns an empty Broker.
func New(source Source, observer Observer) *Broker {
	closed := make(chan struct{})
	b := &Broker{
		source: source, observer: observer, locks: newLocks(closed), entries: map[string]*entry{},
		variants: map[string]map[string]*entry{}, clients: map[string]map[string]*entry{},
		rotationsDue: map[string]bool{}, idle: map[string]bool{}, expiries: map[string]Expiry{},
		slots: make(chan struct{}, sweepRenewals), closed: closed,
	}
	b.pacer = pacing.New(b.logHost)
	return b
}

// logHost logs that a host is found to be down, or that it answers again.
func (b *Broker) logHost(host, cause string, isDown bool) {
	logger := b.source.Logger().With("host", host)
	if isDown {
		logger.Warn("a host does not answer; it gets one request at a time", "cause", cause)
		return
	}
	logger.Info("a host answers again")
}

// Pacer returns what paces all requests of the mount to vendors.
func (b *Broker) Pacer() *pacing.Pacer { return b.pacer }

// logger returns the logger for lines about the tokens of a scope.
func (b *Broker) logger(v scopeSnapshot) hclog.Logger {
	logger := b.source.Logger().With("name", v.credential.Name, "vendor", v.credential.VendorName)
	if v.scope != ownScope {
		logger = logger.With("scope", provider.ShownKey(v.scope))
	}
	return logger
}

const (
	// minLoggedSkew is the least difference between a vendor's clock and this server's that is
	// logged, and the least change of it.
	minLoggedSkew = 5 * time.Second

	// minLoggedStep is the least step of this server's own clock that is logged.
	minLoggedStep = 5 * time.Second
)

// logSkew logs that a vendor's clock differs from this server's.
func (b *Broker) logSkew(r *record, s *State) {
	if s.ClockSkew == nil {
		return
	}
	skew := *s.ClockSkew
	r.mu.Lock()
	isNews := skew.Abs() > minLoggedSkew && (skew-r.current.loggedSkew).Abs() > minLoggedSkew
	if isNews {
		r.current.loggedSkew = skew
	}
	r.mu.Unlock()
	switch logger := b.source.Logger().With("name", r.name, "vendor_ahead", skew.String()); {
	case !isNews:
	case skew.Abs() > provider.MaxSkew:
		logger.Warn("the vendor's clock and this server's differ too much, so the vendor's Date is ignored")
	default:
		logger.Warn("the vendor's clock and this server's differ")
	}
}

// FormatTime formats a time for responses, log lines and events: RFC 3339 in UTC, truncated to the
// second, so that no token seems valid for longer than it is.
func FormatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// RoundUp rounds a time up to a whole second. It returns the zero time unchanged.
func RoundUp(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(time.Second - 1).Truncate(time.Second)
}

// FormatNext formats a time before which a caller need not come back.
func FormatNext(t time.Time) string { return FormatTime(RoundUp(t)) }
