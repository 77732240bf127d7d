package broker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// manyCredentials is a source of many credentials.
type manyCredentials struct{ names []string }

func (manyCredentials) Credential(_ context.Context, _ logical.Storage, name string) (*Credential, error) {
	c := &Credential{Name: name, VendorName: "prompt", Generation: "generation-of-" + name, Vendor: instantVendor{}}
	if name[len(name)-1]%2 == 0 { // half of them have a keepalive
		c.Keepalive, c.Vendor = 24*time.Hour, instantDisuseVendor{}
	}
	return c, nil
}

func (c manyCredentials) Names(context.Context, logical.Storage) ([]string, error) {
	return c.names, nil
}
func (c manyCredentials) Logger() hclog.Logger { return hclog.NewNullLogger() }

// instantVendor is a credential of a vendor that answers at once.
type instantVendor struct{ provider.Credential }

func (instantVendor) Exchange(context.Context, provider.Grant) (*provider.Answer, error) {
	now := time.Now()
	return &provider.Answer{AccessToken: "token", ExpiresIn: time.Hour, Clock: provider.Clock{Sent: now, Received: now}}, nil
}

func (instantVendor) MaxIdle() time.Duration { return 0 }

// instantDisuseVendor is an instantVendor whose credentials expire from disuse.
type instantDisuseVendor struct{ instantVendor }

func (instantDisuseVendor) MaxIdle() time.Duration { return 7 * 24 * time.Hour }

type ignoreExchanges struct{}

func (ignoreExchanges) Exchanged(Exchange) {}
func (ignoreExchanges) Finished(Exchange)  {}

// BenchmarkSweep measures the engine's own part of a sweep, with an instant vendor and storage in
// memory, for several numbers of due credentials.
func BenchmarkSweep(b *testing.B) {
	const credentials = 10_000
	for _, due := range []int{0, credentials / 100, credentials} {
		b.Run(fmt.Sprintf("due=%d", due), func(b *testing.B) {
			c := manyCredentials{}
			for i := range credentials {
				c.names = append(c.names, fmt.Sprintf("c%05d", i))
			}
			broker, storage := New(c, ignoreExchanges{}), &logical.InmemStorage{}
			for _, name := range c.names {
				_, err := broker.Read(b.Context(), storage, name, ReadRequest{})
				require.NoError(b, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for _, name := range c.names[:due] {
					broker.cached(name).age()
				}
				b.StartTimer()
				require.NoError(b, broker.Sweep(b.Context(), storage))
				b.StopTimer()
				left, err := broker.dueTasks(b.Context(), storage)
				require.NoError(b, err)
				require.Empty(b, left, "due tasks are left")
				b.StartTimer()
			}
		})
	}
}

// age makes the token almost expired and in use.
func (r *record) age() {
	r.mu.Lock()
	defer r.mu.Unlock()
	token := r.current.state.Tokens[ownScope]
	token.IssueTime, token.ExpireTime = token.IssueTime.Add(-time.Hour), time.Now().Add(5*time.Minute)
	state := *r.current.state
	state.Tokens = withKey(state.Tokens, ownScope, token)
	r.current.state = &state
	r.setUseLocked(ownScope, use{inUse: true})
}
