package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A quiet is a broker with credentials of a vendor whose tokens last a day. It implements Source.
type quiet struct {
	*Broker

	storage   *refusing
	written   time.Time
	names     []string
	client    string
	version   ClientVersion
	idle      time.Duration // after which credentials expire from disuse
	maxTTL    time.Duration
	failure   *provider.Error
	exchanges int
	loads     int

	mostRecords int // at a time
}

// refusing is storage that can refuse writes.
type refusing struct {
	logical.InmemStorage
	isRefusing bool
}

func (s *refusing) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.isRefusing {
		return errors.New("the disk is full")
	}
	return s.InmemStorage.Put(ctx, entry)
}

func newQuiet(names ...string) *quiet {
	q := &quiet{storage: &refusing{}, names: names, written: time.Now()}
	q.Broker = New(q, ignoreExchanges{})
	return q
}

func (q *quiet) Names(context.Context, logical.Storage) ([]string, error) { return q.names, nil }
func (*quiet) Logger() hclog.Logger                                       { return hclog.NewNullLogger() }

// A quietVendor is the vendor of a quiet.
type quietVendor struct {
	provider.Credential
	*quiet
}

func (v quietVendor) MaxIdle() time.Duration { return v.idle }

// Credential implements Source.
func (q *quiet) Credential(_ context.Context, _ logical.Storage, name string) (*Credential, error) {
	q.loads++
	records := 0
	for _, k := range q.all() {
		if k.record != nil {
			records++
		}
	}
	q.mostRecords = max(q.mostRecords, records)
	keepalive := time.Duration(0)
	if q.idle > 0 {
		keepalive = 24 * time.Hour
	}
	return &Credential{
		Name: name, VendorName: "quiet", Generation: "one", Vendor: quietVendor{quiet: q}, Keepalive: keepalive, WriteTime: q.written,
		Client: q.client, Version: q.version, TTL: provider.TTL{Max: q.maxTTL},
	}, nil
}

// Exchange implements provider.Credential.
func (v quietVendor) Exchange(context.Context, provider.Grant) (*provider.Answer, error) {
	q := v.quiet
	q.exchanges++
	if q.failure != nil {
		return nil, q.failure
	}
	now := time.Now()
	return &provider.Answer{AccessToken: fmt.Sprint("token", q.exchanges), ExpiresIn: 24 * time.Hour, Clock: provider.Clock{Sent: now, Received: now}}, nil
}

func (q *quiet) read(t *testing.T, name string) (string, error) {
	t.Helper()
	issued, err := q.Read(t.Context(), q.storage, name, ReadRequest{})
	if err != nil {
		return "", err
	}
	return issued.AccessToken, nil
}

// pass lets time pass, with a sweep each minute. Those are what counts, so long times have fewer.
func (q *quiet) pass(t *testing.T, d time.Duration) {
	t.Helper()
	step := max(time.Minute, d/200)
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(step)
		_ = q.Sweep(t.Context(), q.storage) // storage may fail
		synctest.Wait()
	}
}

// testQuiet calls f with a broker whose storage has the name "a".
func testQuiet(t *testing.T, f func(t *testing.T, q *quiet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := newQuiet("a")
		f(t, q)
	})
}

func (q *quiet) isEvicted(name string) bool {
	k := q.find(name)
	return k.record == nil && k.summary != nil
}

// evictNow evicts the name "a" as if nobody had read it for long. It reports whether it did.
func (q *quiet) evictNow() bool {
	r := q.cached("a")
	r.mu.Lock()
	r.needed, r.isTouched = time.Now().Add(-2*idleTime), false
	r.mu.Unlock()
	return q.evict(r, time.Time{}, time.Now())
}
