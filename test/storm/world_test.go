package storm_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/storm"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A scenario is a mount whose tokens all expire at each full hour, and its vendor.
type scenario struct {
	readers    int // each an Agent with a credential of its own
	background int // further credentials, in use, which nobody reads around the hour

	rate    vendorsim.Rate
	latency time.Duration

	hours int           // zero means 1
	sweep time.Duration // when the background work begins, after each full minute
	oauth bool          // generic OAuth 2.0 credentials instead of Kensho's
}

// least returns the least time in which a number of exchanges are possible.
func (s scenario) least(exchanges int) time.Duration {
	if s.rate.PerSecond == 0 {
		return s.latency
	}
	return time.Duration(float64(exchanges) / s.rate.PerSecond * float64(time.Second))
}

// givingUp is how long after the hour the run waits for readers without a token.
const givingUp = 10 * time.Minute

// A world is a run of a scenario.
type world struct {
	scenario
	*engine.Engine
	host   string // of the vendor
	random *rand.Rand
	record *storm.Record
	gaveUp atomic.Int64 // Agents
}

// An outcome has the figures of a storm, and those of the credentials in the background.
type outcome struct {
	storm.Result
	renewals int     // exchanges within a quarter of an hour, in the background too
	renewed  float64 // seconds until the last of them
	gaveUp   int64   // Agents that have read in vain too often so far
}

// run simulates the scenario and returns the outcome of each hour.
func (s scenario) run(t *testing.T) (outcomes []outcome) {
	t.Helper()
	started := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w := &world{scenario: s, Engine: engine.NewUnchecked(t), random: rand.New(rand.NewPCG(1, 0)), record: storm.NewRecord(s.readers)}
		w.Logger, w.Storage = hclog.NewNullLogger(), newMemory()
		w.Sim.Forgetful()
		w.Sim.Behave(vendorsim.Conduct{Rate: s.rate, Latency: s.latency})
		w.Restart()
		w.store()
		outcomes = w.simulate()
	})
	for i, o := range outcomes {
		t.Logf("hour %d: %s; %d Agents have given up; %d renewals in %.1f s", i+1, o.Result, o.gaveUp, o.renewals, o.renewed)
	}
	t.Logf("took %s", time.Since(started).Round(time.Millisecond))
	return outcomes
}

func name(i int) string { return fmt.Sprintf("c%05d", i) }

// store stores the credentials: those of the readers, and then the others.
func (w *world) store() {
	if w.oauth {
		w.host = "auth.example.com"
		w.Sim.AddOAuthClient(vendorsim.OAuthClient{
			ID: engine.ClientID, Secret: engine.ClientSecret, AuthMethods: []string{vendorsim.SecretBasic},
			Grants: []string{vendorsim.ClientCredentialsGrant}, Period: time.Hour,
		})
	} else {
		w.host = "link-streaming.kensho.com"
	}
	for i := range w.readers + w.background {
		path, fields := "config/oauth2/"+name(i), map[string]any{
			// The engine does not renew these before they expire, as Kensho's.
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "single_token": true,
		}
		if !w.oauth {
			refreshToken := "refresh-token-of-" + name(i)
			w.Sim.AddRefreshToken("link-streaming", refreshToken)
			path, fields = "config/kensho/"+name(i), map[string]any{"refresh_token": refreshToken}
		}
		fields["verify"] = false
		w.send(w.T.Context(), logical.CreateOperation, path, fields)
	}
}

// simulate runs the readers and the background work through the hours.
func (w *world) simulate() (outcomes []outcome) {
	engine.Until(0, 40, 0)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { w.tick(ctx) })
	for i := range w.background {
		random := rand.New(rand.NewPCG(w.random.Uint64(), 0))
		all.Go(func() { w.readHourly(ctx, name(w.readers+i), random) })
	}
	engine.Until(0, 50, 0)
	for i := range w.readers {
		random := rand.New(rand.NewPCG(w.random.Uint64(), 0))
		agent := storm.Agent{
			Random:   random,
			Get:      func(ctx context.Context) storm.Answer { return w.read(ctx, name(i)) },
			Answered: func(began time.Time, a storm.Answer) { w.record.Add(i, began, a) },
		}
		all.Go(func() {
			sleep(ctx, time.Duration(random.Int64N(int64(5*time.Minute)))) // Agents have started at different times
			if !agent.Run(ctx) {
				w.gaveUp.Add(1)
			}
		})
	}
	for hour := range max(1, w.hours) {
		outcomes = append(outcomes, w.storm(hour+1))
	}
	cancel()
	all.Wait()
	for w.Sim.InFlight() > 0 { // an exchange continues after its reader has gone
		time.Sleep(time.Second)
	}
	w.Backend.Cleanup(context.Background())
	return outcomes
}

// storm waits for the tokens to expire, and returns what follows.
func (w *world) storm(hour int) outcome {
	expiry := time.Date(2000, 1, 1, hour, 0, 0, 0, time.UTC)
	begin := expiry
	if w.oauth { // the vendor states lifetimes in whole seconds
		begin = expiry.Add(-time.Second)
	}
	s := storm.Storm{Readers: w.record, Least: w.least(w.readers), Expiry: expiry, Begin: begin}
	time.Sleep(time.Until(begin.Add(-time.Second)))
	s.Before = w.Sim.Traffic(w.host)
	time.Sleep(time.Until(begin))
	s.At = w.Sim.Traffic(w.host)
	ctx, cancel := context.WithTimeout(context.Background(), givingUp)
	defer cancel()
	w.record.Await(ctx, s.Expiry)
	s.After = w.Sim.Traffic(w.host)
	engine.Until(hour, 15, 0)
	last := w.Sim.Traffic(w.host)
	return outcome{
		Result: s.Result(), gaveUp: w.gaveUp.Load(),
		renewals: last.Accepted - s.Before.Accepted, renewed: last.Last.Sub(s.Begin).Seconds(),
	}
}

// tick sends a rollback operation every minute, as Vault does.
func (w *world) tick(ctx context.Context) {
	for {
		next := time.Now().Truncate(time.Minute).Add(w.sweep)
		if !next.After(time.Now()) {
			next = next.Add(time.Minute)
		}
		sleep(ctx, time.Until(next))
		if ctx.Err() != nil {
			return
		}
		assert.NoError(w.T, w.Tick())
	}
}

// readHourly reads a token in the middle of each hour, so that the engine renews it without a
// reader.
func (w *world) readHourly(ctx context.Context, name string, random *rand.Rand) {
	for {
		next := time.Now().Truncate(time.Hour).Add(40*time.Minute + time.Duration(random.Int64N(int64(10*time.Minute))))
		if !next.After(time.Now()) {
			next = next.Add(time.Hour)
		}
		sleep(ctx, time.Until(next))
		for range 2 { // the engine renews a token that is read again after its issue
			if ctx.Err() != nil {
				return
			}
			assert.Equal(w.T, http.StatusOK, w.read(ctx, name).Status)
			sleep(ctx, 2*time.Minute)
		}
	}
}

// read reads the token of a credential.
func (w *world) read(ctx context.Context, name string) storm.Answer {
	resp, status := w.send(ctx, logical.ReadOperation, "creds/"+name, nil)
	if ctx.Err() != nil || status != http.StatusOK {
		return storm.Answer{Status: status}
	}
	token, _ := resp.Data["access_token"].(string)
	return storm.Answer{Status: status, Expiry: w.Sim.Expiry(token), Lease: resp.Secret.TTL}
}

// send sends a request as Vault's core does, and returns the HTTP status. A write must succeed.
func (w *world) send(ctx context.Context, op logical.Operation, path string, data map[string]any) (*logical.Response, int) {
	req := &logical.Request{Operation: op, Path: path, MountPoint: engine.MountPoint, Data: data, Storage: w.Storage}
	resp, err := w.Backend.HandleRequest(ctx, req)
	status, err := logical.RespondErrorCommon(req, resp, err)
	logical.AdjustErrorStatusCode(&status, err)
	if status == 0 {
		status = http.StatusOK
	}
	if op != logical.ReadOperation {
		require.Equal(w.T, http.StatusOK, status, err)
	}
	return resp, status
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
