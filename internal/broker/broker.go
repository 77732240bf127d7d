// Package broker caches access tokens between the vendors that issue them and the readers
// that use them. The cache is in memory, backed by storage. For each credential, one exchange
// runs at a time; it runs ahead of the readers where a token is in use, and in the background
// where a credential would expire of disuse. The package knows nothing of HTTP, of fields or of
// Vault's responses.
//
// What the engine knows of a credential is a State (state.go); storage has it in several
// entries (entries.go, save.go). A snapshot is the State and what else is in memory of one name
// (snapshot.go). The rules are pure functions (rules.go), and decide.go is the one place that
// decides whether a reader or the background has a token renewed. Readers enter at read.go, operators at refresh.go and
// change.go, and Vault's periodic function at sweep.go. All of them exchange by exchange.go,
// under the lock of the name (lock.go).
package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/provider"
)

// ErrUnknown means that no credential has the name.
var ErrUnknown = errors.New("no such credential")

// ErrBusy means that an earlier request for the same name has not ended in time.
var ErrBusy = errors.New("the credential is busy")

// errSuperseded ends a renewal whose credential changed meanwhile.
var errSuperseded = errors.New("the credential was changed meanwhile")

// Source provides the credentials that operators stored.
type Source interface {
	// Credential opens the credential of a name from storage; nil if there is none.
	Credential(ctx context.Context, s logical.Storage, name string) (*Credential, error)

	// Names returns the names of all credentials in storage.
	Names(ctx context.Context, s logical.Storage) ([]string, error)

	// Logger returns the logger of the mount. Nothing that is logged holds a secret.
	Logger() hclog.Logger
}

// An Observer counts exchanges and sends their events. Its methods must return at once, since
// readers wait for them.
type Observer interface {
	// Exchanged reports an exchange as soon as the vendor has answered.
	Exchanged(x Exchange)

	// Finished reports the same exchange once its result is stored, or could not be. x.IsModified
	// is whether readers get another token now.
	Finished(x Exchange)
}

// Broker is the token cache of one mount. Its methods may be called concurrently, but for
// Sweep, of which Vault runs one at a time.
type Broker struct {
	source   Source
	observer Observer
	locks    *locks

	mu      sync.RWMutex
	records map[string]*record // by the name of the credential

	// loads are the loads of names that readers wait for.
	loads singleflight.Group

	// slots limits the renewals that run in the background.
	slots chan struct{}

	// swept is when the last sweep began, with the monotonic clock. Only Sweep uses it.
	swept time.Time

	// listed is whether every name in storage has an entry. Only Sweep uses it.
	listed bool

	// closed is closed by Close. Nothing begins after that.
	closed  chan struct{}
	closing sync.Once
}

// New returns an empty Broker.
func New(source Source, observer Observer) *Broker {
	closed := make(chan struct{})
	return &Broker{
		source: source, observer: observer, locks: newLocks(closed), records: map[string]*record{},
		slots: make(chan struct{}, sweepRenewals), closed: closed,
	}
}

// logger returns the logger for lines about the tokens of a scope.
func (b *Broker) logger(v scopeSnapshot) hclog.Logger {
	logger := b.source.Logger().With("name", v.credential.Name, "vendor", v.credential.VendorName)
	if v.scope != ownScope {
		logger = logger.With("scope", v.scope)
	}
	return logger
}

const (
	// minLoggedSkew is how far a vendor's clock must differ from this server's, and from what
	// was last logged, to be logged.
	minLoggedSkew = 5 * time.Second

	// minLoggedStep is how far this server's own clock must be stepped to be logged.
	minLoggedStep = 5 * time.Second
)

// logSkew logs a vendor's clock that differs from this server's.
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

// FormatTime formats a time as every response, log line and event does: RFC 3339 in UTC, cut to
// the second, so that no token seems valid for longer than it is.
func FormatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
