//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// troubles are reasons for a read to fail, by what they are of: a node that does not
// serve, or a credential that its vendor does not take any more.
type troubles struct {
	mu   sync.Mutex
	last map[string]bool // whether it lasts
	had  map[string]int  // how often it began
}

func newTroubles() *troubles { return &troubles{last: map[string]bool{}, had: map[string]int{}} }

func (x *troubles) begin(of string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last[of] = true
	x.had[of]++
}

func (x *troubles) end(of string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last[of] = false
}

// watch returns what tells whether there has been trouble with any since now.
func (x *troubles) watch(of ...string) (met func() bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	lasts, had := false, make([]int, len(of))
	for i, o := range of {
		lasts = lasts || x.last[o]
		had[i] = x.had[o]
	}
	return func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		for i, o := range of {
			lasts = lasts || x.had[o] > had[i]
		}
		return lasts
	}
}

// A crowd is readers who read tokens, with and without a lease, through all nodes in turn, and check
// each at the vendor as soon as they have it.
type crowd struct {
	*troubles
	world   *world
	vendor  *rotator
	timeout time.Duration // of a read
	stop    context.CancelFunc
	group   sync.WaitGroup

	mu      sync.Mutex
	reads   int
	excused int      // that failed, and had reason to
	dead    []string // tokens
	failed  []string // reads that had no reason to
}

// read starts so many readers of the names at a mount, until the test ends or halt.
func (r *crowd) read(t *testing.T, many int, rng *rand.Rand, mount string, names []string, nodes []*api.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	t.Cleanup(r.halt)
	for i := range many {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		node := i % len(nodes)
		client := r.client(t, nodes[node])
		r.group.Go(func() {
			for ctx.Err() == nil {
				name := names[own.IntN(len(names))]
				path := []string{"creds", "token"}[own.IntN(2)]
				r.one(ctx, client, node, mount+"/"+path+"/"+name, name)
				// Not as fast as it can: the machine has other things to do.
				time.Sleep(time.Duration(20+own.IntN(60)) * time.Millisecond)
			}
		})
	}
}

// client is a reader's, with connections of its own.
func (r *crowd) client(t *testing.T, of *api.Client) *api.Client {
	config := api.DefaultConfig()
	config.Address, config.MaxRetries, config.Timeout = of.Address(), 0, r.timeout
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.SetToken(of.Token())
	client, err = r.world.recorded(client)
	require.NoError(t, err)
	return client
}

func (r *crowd) halt() {
	r.stop()
	r.group.Wait()
}

func nodeName(node int) string { return fmt.Sprint("node ", node) }

func (r *crowd) one(ctx context.Context, client *api.Client, node int, path, name string) {
	met := r.watch(nodeName(node), name)
	asked := time.Now()
	secret, err := client.Logical().ReadWithContext(ctx, path)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	switch {
	case err == nil && secret != nil:
		if says := r.check(secret, asked); says != "" {
			r.dead = append(r.dead, fmt.Sprintf("%s %s by %s: %s", asked.Format(clock), path, nodeName(node), says))
		}
	case met():
		r.excused++
	default:
		r.failed = append(r.failed, fmt.Sprintf("%s to %s %s by %s: %v", asked.Format(clock), time.Now().Format(clock), path, nodeName(node), err))
	}
}

// check says what is wrong with a token that was asked for at a time. The vendor takes
// it now, and until its lease ends, which did not begin before it was asked for; one
// without a lease, for its ttl. (A lease of no time is Vault's, which rounds what is left
// once it has written it down: half a second or less.)
func (r *crowd) check(secret *api.Secret, asked time.Time) string {
	token, _ := secret.Data["access_token"].(string)
	accepted := r.vendor.Accepts(token)
	now := time.Now() // not before the vendor was asked
	end := asked.Add(time.Duration(secret.LeaseDuration) * time.Second)
	if secret.LeaseID == "" {
		ttl, err := secret.Data["ttl"].(json.Number).Int64()
		if err != nil {
			return err.Error()
		}
		end = asked.Add(time.Duration(ttl) * time.Second)
	}
	switch death := r.vendor.Death(token); {
	case !r.vendor.isServed(token):
		return "nobody issued it"
	case death.Before(end):
		return fmt.Sprintf("it died at %s, and is to be used until %s", death.Format(clock), end.Format(clock))
	case !accepted && now.Before(end):
		return "the vendor does not take it"
	}
	return ""
}
