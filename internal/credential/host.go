package credential

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A HostLimit is what an operator states of a host of vendors.
type HostLimit struct {
	storage.Format

	RequestsPerSecond float64 `json:"requests_per_second"`
}

// Check implements storage.Entry.
func (l *HostLimit) Check() error {
	if l.RequestsPerSecond > 0 && l.RequestsPerSecond <= maxRequestsPerSecond {
		return nil
	}
	return provider.Errorf(provider.Invalid, "requests_per_second: must be over 0 and at most %d", maxRequestsPerSecond)
}

const (
	// hostsTimeout bounds how long the first use of a credential waits for the limits of hosts.
	hostsTimeout = 2 * time.Second

	repairHost = "delete it and write it again"

	// maxRequestsPerSecond is the maximum of a stated limit.
	maxRequestsPerSecond = 100_000
)

// A hostLimits is whether the pacer has the limits in storage.
type hostLimits struct {
	mu       sync.Mutex
	isLoaded bool
}

// loadHosts gives the pacer the limits that operators have stated, unless it has them. A limit that
// cannot be read or decoded must not keep credentials from being used: the others count. The error is of
// type *storage.Error.
func (st *Store) loadHosts(ctx context.Context, s logical.Storage) error {
	if !st.hosts.mu.TryLock() { // another request loads them
		return nil
	}
	defer st.hosts.mu.Unlock()
	if st.hosts.isLoaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hostsTimeout)
	defer cancel()
	names, err := storage.List(ctx, s, storage.HostKey(""))
	if err != nil {
		return err
	}
	limits := map[string]float64{}
	var failed error
	for _, host := range names {
		switch limit, err := st.HostLimit(ctx, s, host); {
		case storage.IsError(err):
			failed = err
		case err != nil:
			st.Logger().Warn("the limit of a host cannot be used", "host", host, "error", err)
		case limit != nil:
			limits[host] = limit.RequestsPerSecond
		}
	}
	st.broker.Pacer().SetStated(limits)
	st.hosts.isLoaded = failed == nil
	return failed
}

// ForgetHosts makes the next use of a credential load the limits of hosts again.
func (st *Store) ForgetHosts() {
	st.hosts.mu.Lock()
	defer st.hosts.mu.Unlock()
	st.hosts.isLoaded = false
}

// HostLimit returns the limit that an operator has stated of a host; nil if there is none.
func (st *Store) HostLimit(ctx context.Context, s logical.Storage, host string) (*HostLimit, error) {
	return storage.Get[HostLimit](ctx, s, storage.HostKey(host), repairHost)
}

// HostsWithLimit returns the hosts of which an operator has stated a limit, sorted.
func (st *Store) HostsWithLimit(ctx context.Context, s logical.Storage) ([]string, error) {
	return storage.List(ctx, s, storage.HostKey(""))
}

// WriteHost stores the limit of a host. It counts at once. Its error is of kind Invalid, or of type
// *storage.Error.
func (st *Store) WriteHost(ctx context.Context, s logical.Storage, host string, limit HostLimit) error {
	if err := limit.Check(); err != nil {
		return err
	}
	return st.changeHosts(ctx, s, func() error { return storage.Put(ctx, s, storage.HostKey(host), &limit) })
}

// DeleteHost deletes the limit of a host.
func (st *Store) DeleteHost(ctx context.Context, s logical.Storage, host string) error {
	return st.changeHosts(ctx, s, func() error { return storage.Delete(ctx, s, storage.HostKey(host)) })
}

func (st *Store) changeHosts(ctx context.Context, s logical.Storage, change func() error) error {
	err := change()
	st.ForgetHosts() // a write that fails may have taken effect
	if err != nil {
		return err
	}
	return st.loadHosts(ctx, s)
}

// HostName returns the name of a host as the pacer has it: in lower case, and without the usual port.
func HostName(host string) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), ":443"), ":80")
}
