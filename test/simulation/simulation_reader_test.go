package simulation_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// live plays a reader.
func (c *crowd) live(r *reader, rng *rand.Rand) {
	leaves := c.end
	if r.readers == "leaver" {
		leaves = time.Now().Add(time.Duration(rng.Int64N(int64(time.Until(c.end)))))
	}
	for wait := time.Duration(rng.Int64N(int64(time.Hour))); time.Now().Before(leaves) && !c.ended(wait); {
		lease := c.readAs(r)
		switch {
		case r.readers == "once a day":
			wait = time.Duration(22+rng.IntN(4)) * time.Hour
		case r.readers == "stranger":
			wait = time.Duration(1+rng.IntN(300)) * time.Minute
		case lease > 0:
			wait = time.Duration((0.85 + 0.1*rng.Float64()) * float64(lease))
		default:
			wait = time.Duration(1+rng.IntN(15)) * time.Minute
		}
	}
}

// readAs reads the reader's token, and checks that it is the reader's own and no older than the last change.
func (c *crowd) readAs(r *reader) (lease time.Duration) {
	for c.paused.Load() {
		time.Sleep(100 * time.Millisecond)
	}
	c.requests.Add(1)
	defer c.requests.Add(-1)
	var data map[string]any
	if r.scope != "" {
		data = map[string]any{"scope": r.scope}
	}
	asked := time.Now()
	r.of.mu.Lock()
	least := r.of.changed
	if asked.Before(r.of.done) {
		least = time.Time{}
	}
	r.of.mu.Unlock()
	resp, status, message := c.RequestWithin(engine.AsReader(context.Background(), r.name), logical.ReadOperation, strings.Replace(r.of.role(), "roles", "creds", 1), data)
	now := time.Now()
	c.reads.Add(1)
	r.lastRead.Store(now.UnixNano())
	if status != http.StatusOK {
		c.failed.Add(1)
		switch {
		case r.readers == "stranger":
			c.denied.Add(1)
		case now.Before(r.servedUntil().Add(-12*time.Second)) || !r.excused(asked, now) && !r.of.excused(asked, now):
			c.failedWrongly.Add(1)
			c.T.Errorf("%s: %s (%s): failed wrongly with %d %s", now, r.name, r.readers, status, message)
		}
		return 0
	}
	token := resp.Data["access_token"].(string)
	expiry := r.sim.Expiry(token)
	left := expiry.Sub(now)
	r.note(event{at: now, until: now.Add(resp.Secret.TTL)})
	r.serve(expiry)
	if margin := min(30*time.Second, left/20); resp.Secret.TTL > left-margin || resp.Secret.TTL < time.Second {
		c.expired.Add(1)
		c.T.Errorf("%s: %s: a token with %s left was leased for %s", now, r.name, left, resp.Secret.TTL)
	}
	if subject := r.sim.About(token).Subject; subject != r.name {
		c.strangers.Add(1)
		c.T.Errorf("%s: %s got the token of %q", now, r.name, subject)
	}
	if issued := expiry.Add(-readerTokenLifetime); issued.Before(least.Add(-time.Second)) { // tokens have whole seconds
		c.older.Add(1)
		c.T.Errorf("%s: %s got a token of %s after a change at %s", now, r.name, issued, least)
	}
	return resp.Secret.TTL
}

// operate changes a credential at random times: a setting, the credential, a refresh, a drop, or a deletion.
func (c *crowd) operate(s *service, rng *rand.Rand) {
	for !c.ended(time.Duration(rng.ExpFloat64() * float64(day))) {
		began, kind := time.Now(), rng.IntN(6)
		if kind > 0 { // for as long as it takes, as it may succeed though it says otherwise
			c.noteAll(s, event{at: began, ends: true})
		}
		var status int
		switch kind {
		case 0:
			c.send(logical.UpdateOperation, s.path, map[string]any{"request_timeout": 10 + rng.IntN(3)}, nil)
			continue
		case 1, 2:
			status, _ = c.send(logical.UpdateOperation, s.path, map[string]any{"scope": "read,write"}, nil)
		case 3:
			status, _ = c.send(logical.UpdateOperation, "refresh/"+s.name, nil, nil)
		case 4:
			status, _ = c.send(logical.UpdateOperation, "refresh/"+s.name, engine.Drop, nil)
		case 5:
			if !c.remove(s) {
				return
			}
			continue
		}
		if status == http.StatusOK {
			s.mu.Lock()
			s.changed, s.done = began, time.Now()
			s.mu.Unlock()
			c.writes.Add(1)
		}
		c.noteAll(s, event{at: time.Now(), ends: true})
	}
}

func (c *crowd) noteAll(s *service, e event) {
	for _, r := range c.readers {
		if r.of == s {
			r.note(e)
		}
	}
}

// remove deletes a credential, checks that nothing of it is left, and stores it again. It reports whether
// time is left.
func (c *crowd) remove(s *service) bool {
	began := time.Now()
	s.mu.Lock()
	s.account.mu.Lock()
	s.outages = append(s.outages, outage{from: began, until: unending})
	gone := len(s.outages) - 1
	s.account.mu.Unlock()
	s.mu.Unlock()
	for _, path := range []string{s.role(), s.path} {
		for {
			if status, _ := c.send(logical.DeleteOperation, path, nil, nil); status == http.StatusOK {
				break
			}
			if c.ended(time.Minute) {
				return false
			}
		}
	}
	for key := range c.Dump() {
		if strings.Contains(key, "/"+s.name+"/") || strings.Contains(key, "/"+s.name+"~") {
			c.orphans.Add(1)
			c.T.Errorf("%s: %s is left after the deletion", time.Now(), key)
		}
	}
	c.deletions.Add(1)
	if c.ended(10 * time.Minute) {
		return false
	}
	c.create(s)
	s.account.mu.Lock()
	s.outages[gone].until = time.Now().Add(time.Minute)
	s.account.mu.Unlock()
	s.mu.Lock()
	s.changed, s.done = began, time.Now()
	s.mu.Unlock()
	c.noteAll(s, event{at: time.Now(), ends: true})
	return true
}

// churn makes the vendor reject people for some hours.
func (c *crowd) churn(s *service, rng *rand.Rand) {
	for !c.ended(time.Duration(rng.ExpFloat64() * float64(day))) {
		var out []*reader
		for _, r := range c.readers {
			if r.of == s && r.readers != "stranger" && rng.IntN(10) == 0 {
				out = append(out, r)
			}
		}
		spell := time.Duration(1+rng.IntN(12)) * time.Hour
		known := s.client.Subjects
		s.client.Subjects = slices.DeleteFunc(slices.Clone(known), func(name string) bool {
			return slices.ContainsFunc(out, func(r *reader) bool { return r.name == name })
		})
		now := time.Now()
		for _, r := range out {
			r.mu.Lock()
			r.outages = append(r.outages, outage{from: now, until: now.Add(spell + 7*time.Minute)})
			r.mu.Unlock()
		}
		s.register()
		time.Sleep(spell)
		s.client.Subjects = known
		s.register()
	}
}

// simulateStorage makes storage refuse writes for some minutes, or carry them out and say otherwise.
func (c *crowd) simulateStorage(rng *rand.Rand) {
	for !c.ended(time.Duration(rng.ExpFloat64() * float64(2*day))) {
		spell := time.Duration(1+rng.IntN(20)) * time.Minute
		prefix, done := []string{"", "variant/", "state/"}[rng.IntN(3)], rng.IntN(3) == 0
		now := time.Now()
		c.unsettled.Store(now.Add(spell + 3*time.Minute).UnixNano())
		for _, s := range c.services {
			s.account.mu.Lock()
			s.outages = append(s.outages, outage{from: now, until: now.Add(spell + 7*time.Minute)})
			s.account.mu.Unlock()
		}
		fault := func(call engine.StorageCall) engine.Fault {
			if call.Writes() && strings.HasPrefix(call.Key, prefix) {
				return engine.Fault{Err: engine.ErrStorage, Done: done}
			}
			return engine.Fault{}
		}
		c.disk.OnCall.Store(&fault)
		time.Sleep(spell)
		c.disk.OnCall.Store(nil)
	}
}
