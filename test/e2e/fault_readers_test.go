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

// troubles are reasons for a read to fail, by the name of what has them: a node that is down, or a
// credential that the vendor rejects.
type troubles struct {
	mu   sync.Mutex
	last map[string]bool // whether the trouble lasts
	had  map[string]int  // how often it has begun
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

// watch returns a function that reports whether any of the names has had trouble since the call of
// watch.
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

// crowd is a number of readers that read tokens with and without a lease, through all nodes, and
// check each at the vendor at once.
type crowd struct {
	*troubles
	world   *world
	vendor  *rotator
	timeout time.Duration // the time limit of a read
	stop    context.CancelFunc
	group   sync.WaitGroup

	mu      sync.Mutex
	reads   int
	excused int      // reads that failed during a trouble
	expired []string // invalid tokens that were served
	failed  []string // reads that failed for no reason
}

// read starts readers of the names at a mount. They run until stopReaders, or the end of the test.
func (r *crowd) read(t *testing.T, many int, rng *rand.Rand, mount string, names []string, nodes []*api.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	t.Cleanup(r.stopReaders)
	for i := range many {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		node := i % len(nodes)
		client := r.client(t, nodes[node])
		r.group.Go(func() {
			for ctx.Err() == nil {
				name := names[own.IntN(len(names))]
				path := []string{"creds", "token"}[own.IntN(2)]
				r.readOnce(ctx, client, node, mount+"/"+path+"/"+name, name)
				// A pause leaves the machine time for its other work.
				time.Sleep(time.Duration(20+own.IntN(60)) * time.Millisecond)
			}
		})
	}
}

// client returns a reader's client, with connections of its own.
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

func (r *crowd) stopReaders() {
	r.stop()
	r.group.Wait()
}

func nodeName(node int) string { return fmt.Sprint("node ", node) }

func (r *crowd) readOnce(ctx context.Context, client *api.Client, node int, path, name string) {
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
		if wrong := r.check(secret, asked); wrong != "" {
			r.expired = append(r.expired, fmt.Sprintf("%s %s by %s: %s", asked.Format(clock), path, nodeName(node), wrong))
		}
	case met():
		r.excused++
	default:
		r.failed = append(r.failed, fmt.Sprintf("%s to %s %s by %s: %v", asked.Format(clock), time.Now().Format(clock), path, nodeName(node), err))
	}
}

// check returns what is wrong with a token that was requested at a time, or "". The vendor must
// accept the token now, and until its lease or ttl ends, counted from the request. (A lease of zero
// seconds is Vault's rounding of half a second or less.)
func (r *crowd) check(secret *api.Secret, asked time.Time) string {
	token, _ := secret.Data["access_token"].(string)
	accepted := r.vendor.Accepts(token)
	now := time.Now() // after the vendor was asked
	end := asked.Add(time.Duration(secret.LeaseDuration) * time.Second)
	if secret.LeaseID == "" {
		ttl, err := secret.Data["ttl"].(json.Number).Int64()
		if err != nil {
			return err.Error()
		}
		end = asked.Add(time.Duration(ttl) * time.Second)
	}
	switch expiry := r.vendor.Expiry(token); {
	case !r.vendor.isServed(token):
		return "the vendor did not issue it"
	case expiry.Before(end):
		return fmt.Sprintf("it expires at %s, but its lease or ttl ends at %s", expiry.Format(clock), end.Format(clock))
	case !accepted && now.Before(end):
		return "the vendor does not accept it"
	}
	return ""
}
