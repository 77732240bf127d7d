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

// crowd is a source of many credentials.
type crowd struct{ names []string }

func (crowd) Credential(_ context.Context, _ logical.Storage, name string) (*Credential, error) {
	c := &Credential{Name: name, VendorName: "prompt", Generation: "generation-of-" + name, Vendor: prompt{}}
	if name[len(name)-1]%2 == 0 { // half of them have a keepalive
		c.Keepalive, c.Vendor = 24*time.Hour, mortal{}
	}
	return c, nil
}

func (c crowd) Names(context.Context, logical.Storage) ([]string, error) { return c.names, nil }
func (c crowd) Logger() hclog.Logger                                     { return hclog.NewNullLogger() }

// prompt is of a vendor that answers at once.
type prompt struct{ provider.Credential }

func (prompt) Exchange(context.Context, provider.Grant) (*provider.Answer, error) {
	now := time.Now()
	return &provider.Answer{AccessToken: "token", ExpiresIn: time.Hour, Clock: provider.Clock{Sent: now, Received: now}}, nil
}

func (prompt) MaxIdle() time.Duration { return 0 }

// mortal is of a vendor whose credentials expire of disuse.
type mortal struct{ prompt }

func (mortal) MaxIdle() time.Duration { return 7 * 24 * time.Hour }

type nobody struct{}

func (nobody) Exchanged(Exchange) {}
func (nobody) Stored(Exchange)    {}

// A sweep over credentials of which a part is due, with a vendor that answers at once and
// storage in memory: what is the engine's own.
func BenchmarkSweep(b *testing.B) {
	const credentials = 10_000
	for _, due := range []int{0, credentials / 100, credentials} {
		b.Run(fmt.Sprintf("due=%d", due), func(b *testing.B) {
			c := crowd{}
			for i := range credentials {
				c.names = append(c.names, fmt.Sprintf("c%05d", i))
			}
			broker, storage := New(c, nobody{}), &logical.InmemStorage{}
			for _, name := range c.names {
				_, err := broker.Read(b.Context(), storage, name, ReadRequest{})
				require.NoError(b, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for _, name := range c.names[:due] {
					broker.entries[name].age()
				}
				b.StartTimer()
				require.NoError(b, broker.Sweep(b.Context(), storage))
				b.StopTimer()
				require.Empty(b, broker.dueTasks(time.Now()), "all that was due is done")
				b.StartTimer()
			}
		})
	}
}

// age makes the token nearly expired, and in use.
func (e *cacheEntry) age() {
	e.mu.Lock()
	defer e.mu.Unlock()
	token := e.current.state.Tokens[ownScope]
	token.IssueTime, token.ExpireTime = token.IssueTime.Add(-time.Hour), time.Now().Add(5*time.Minute)
	state := *e.current.state
	state.Tokens = with(state.Tokens, ownScope, token)
	e.current.state = &state
	e.uses[ownScope] = use{inUse: true}
}
