package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	agents "vault-plugin-secrets-tokenbroker/internal/testing/storm"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// A client of the OAuth 2.0 vendor.
	clientID     = "bench"
	clientSecret = "5d1f0c3a-bench"

	// spread is the time in which the Agents start, and starting bounds the time until all of them
	// have a token.
	spread   = 5 * time.Second
	starting = 5 * time.Minute

	// rounding is how much earlier than at the vendor a token can expire for the engine: the vendor
	// states lifetimes in whole seconds.
	rounding = time.Second

	// pauses is the least time between the end of a storm and the next one.
	pauses = 5 * time.Second
)

// A scenario is a vendor, and credentials with an Agent each, whose tokens all expire at each
// multiple of a period. The vendor is an OAuth 2.0 server, since Kensho's period is an hour, and its
// credentials have single_token, so that the engine waits for the end of a token as it does for
// Kensho's.
type scenario struct {
	Name        string         `json:"name"`
	Credentials int            `json:"credentials"`
	Rate        vendorsim.Rate `json:"rate"`
	Latency     time.Duration  `json:"latency_ns"`
	Period      time.Duration  `json:"period_ns"`
}

// least returns the least time in which all credentials can have a new token.
func (s scenario) least() time.Duration {
	if s.Rate.PerSecond == 0 {
		return s.Latency
	}
	return time.Duration(float64(s.Credentials) / s.Rate.PerSecond * float64(time.Second))
}

// An hour is the result of the moment at which all tokens expire.
type hour struct {
	agents.Result
	Resident float64 `json:"resident_mib"` // memory of the plugin after it
}

// hours runs a scenario, and returns what follows a number of moments at which all tokens expire.
func (b *bench) hours(ctx context.Context, s scenario, start starter, moments int) (found []hour, err error) {
	return found, b.in(ctx, start, func(w *world) error {
		host, err := w.prepare(ctx, s)
		if err != nil {
			return err
		}
		record := agents.NewRecord(s.Credentials)
		stop := w.startAgents(ctx, s, record)
		defer stop()
		w.say("%s: waiting until all Agents have a token", s.Name)
		if err := awaitAll(ctx, record); err != nil {
			return err
		}
		w.vendor.Behave(vendorsim.Conduct{Rate: s.Rate, Latency: s.Latency})
		for range moments {
			h, err := w.hour(ctx, s, host, record)
			if err != nil {
				return err
			}
			w.say("%s: %s; plugin %.0f MiB", s.Name, h.Result, h.Resident)
			found = append(found, h)
		}
		return nil
	})
}

// prepare stores the credentials, and returns the vendor's host.
func (w *world) prepare(ctx context.Context, s scenario) (host string, err error) {
	if err := w.mount(ctx, engine, engine); err != nil {
		return "", err
	}
	w.vendor.AddOAuthClient(vendorsim.OAuthClient{
		ID: clientID, Secret: clientSecret, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant}, Period: s.Period,
	})
	w.say("%s: storing %d credentials", s.Name, s.Credentials)
	return "auth.example.com", each(s.Credentials, func(n int) error {
		_, err := w.client.Logical().WriteWithContext(ctx, engine+"/config/oauth2/"+name(n), map[string]any{
			"token_url": vendorsim.URL(w.root, vendorsim.OAuthTokenURL), "client_id": clientID, "client_secret": clientSecret,
			"single_token": true, "verify": false,
		})
		return err
	})
}

// startAgents starts an Agent for each credential, and returns a function that ends them.
func (w *world) startAgents(ctx context.Context, s scenario, record *agents.Record) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	var gaveUp atomic.Int64
	for n := range s.Credentials {
		random := rand.New(rand.NewPCG(uint64(n), 0))
		agent := agents.Agent{
			Random:   random,
			Answered: func(began time.Time, a agents.Answer) { record.Add(n, began, a) },
		}
		reading.Go(func() {
			r := newReader(w.server)
			defer r.close()
			agent.Get = func(ctx context.Context) agents.Answer { return w.answer(ctx, r, "creds/"+name(n)) }
			if pause(ctx, time.Duration(random.Int64N(int64(spread)))) == nil && !agent.Run(ctx) {
				gaveUp.Add(1)
			}
		})
	}
	return func() {
		cancel()
		reading.Wait()
		if n := gaveUp.Load(); n > 0 {
			w.say("%s: %d Agents have given up", s.Name, n)
		}
	}
}

// answer reads a path of the engine.
func (w *world) answer(ctx context.Context, r *reader, path string) agents.Answer {
	status, body, err := r.fetch(ctx, engine+"/"+path)
	if err != nil || status != http.StatusOK {
		return agents.Answer{Status: status}
	}
	var answer struct {
		LeaseDuration int64 `json:"lease_duration"`
		Data          struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return agents.Answer{}
	}
	return agents.Answer{
		Status: status, Expiry: w.vendor.Expiry(answer.Data.AccessToken), Lease: time.Duration(answer.LeaseDuration) * time.Second,
	}
}

// hour waits for the tokens to expire, and returns what follows.
func (w *world) hour(ctx context.Context, s scenario, host string, record *agents.Record) (hour, error) {
	expiry := time.Now().Add(pauses).Truncate(s.Period).Add(s.Period)
	// For the engine, a lifetime counts from the request, which the vendor receives later.
	o := agents.Storm{Readers: record, Expiry: expiry, Begin: expiry.Add(-rounding - s.Latency), Least: s.least()}
	if err := pause(ctx, time.Until(expiry.Add(-pauses/2))); err != nil {
		return hour{}, err
	}
	o.Before = w.vendor.Traffic(host)
	if err := pause(ctx, time.Until(o.Begin)); err != nil {
		return hour{}, err
	}
	o.At = w.vendor.Traffic(host)
	// The next tokens expire soon. A reader that has none by then is a result, not an error.
	awaiting, cancel := context.WithDeadline(ctx, expiry.Add(s.Period-pauses))
	defer cancel()
	record.Await(awaiting, expiry)
	o.After = w.vendor.Traffic(host)
	resident, err := w.pluginResident()
	if err != nil {
		return hour{}, err
	}
	return hour{Result: o.Result(), Resident: resident}, ctx.Err()
}

// awaitAll waits until all readers have a token.
func awaitAll(ctx context.Context, record *agents.Record) error {
	waiting, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	record.Await(waiting, time.Now())
	if waiting.Err() != nil {
		return fmt.Errorf("after %s, some readers have no token", starting)
	}
	return nil
}
