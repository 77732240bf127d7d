package simulation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	persons = 40

	// horizon is how long before the end of a refresh token the engine asks for another consent, and
	// lateness how late it may be: it looks every minute.
	horizon  = 14 * 24 * time.Hour
	lateness = 5 * time.Minute

	day = 24 * time.Hour
)

// yearSpan returns the simulated time in which people consent: so long that refresh tokens of 90 days
// expire, or with -short, that the engine warns of the end of those of 30 days.
func yearSpan() time.Duration {
	if testing.Short() {
		return 20 * day
	}
	return 200 * day
}

// year is a run of the simulation in which people consent, again and again.
type year struct {
	*month
	disk       *engine.FaultyStorage
	full       chan struct{} // makes storage refuse writes now
	failedOver atomic.Int64  // when the active node has failed, in nanoseconds since 1970
	people     []*person

	outcomes sync.Map // *atomic.Int64 by outcome
	warnings atomic.Int64
}

// TestPeopleConsentThroughTheYear checks guarantees 1, 3, 8, 10 and 16 of credentials that people consent to: in
// a browser, with a pasted URL or on another device, in time, late or never. Refresh tokens expire by the
// calendar or are withdrawn, during outages of vendors, failures of storage and restarts.
func TestPeopleConsentThroughTheYear(t *testing.T) {
	started := time.Now()
	synctest.Test(t, func(t *testing.T) {
		y := newYear(t, *seed)
		y.run()
		y.checkResults()
	})
	t.Logf("simulated %s in %s", yearSpan(), time.Since(started).Round(time.Millisecond))
}

func newYear(t *testing.T, seed uint64) *year {
	m := &month{Engine: engine.New(t), random: rand.New(rand.NewPCG(seed, 1)), end: time.Now().Add(yearSpan())}
	y := &year{month: m, disk: m.BreakStorage(), full: make(chan struct{})}
	y.disk.Forgetful = true
	hosts := map[string]http.Handler{}
	for i := range persons {
		p := y.newPerson(i)
		y.people, y.accounts = append(y.people, p), append(y.accounts, p.account)
		hosts[p.host()] = p.sim
	}
	y.Transport = vendorsim.Transport(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hosts[r.Host].ServeHTTP(w, r) }))
	y.Restart()
	for vendor, lifetime := range lifetimes {
		if vendor != oauth2 {
			y.Write("vendors/"+vendor, map[string]any{"definition": definitionOf(vendor, lifetime)})
		}
	}
	return y
}

// run simulates the year.
func (y *year) run() {
	var all sync.WaitGroup
	for _, p := range y.people {
		// Each goroutine has its own generator, so that their order does not matter.
		rng := func() *rand.Rand { return rand.New(rand.NewPCG(y.random.Uint64(), y.random.Uint64())) }
		y.Write(p.path, p.fields)
		outages, operator, changes, audits, reader := rng(), rng(), rng(), rng(), rng()
		all.Go(func() { y.simulateOutages(p.account, outages) })
		all.Go(func() { y.live(p, operator) })
		all.Go(func() { y.change(p, changes) })
		all.Go(func() { y.audit(p, audits) })
		if p.readers != "none" {
			all.Go(func() { y.reader(p, reader) })
		}
	}
	disk := rand.New(rand.NewPCG(y.random.Uint64(), 0))
	restarts := rand.New(rand.NewPCG(y.random.Uint64(), 0))
	all.Go(func() { y.simulateStorage(disk) })
	all.Go(func() {
		for !y.ended(time.Duration(restarts.ExpFloat64() * float64(2*day))) {
			y.failOver()
		}
	})
	all.Go(y.ticker)
	all.Go(y.watch)
	all.Go(y.inspect)
	all.Wait()
}

// failOver ends the active node and makes another one active. While storage refuses the result of a consent,
// only memory has it, so that a failover would lose it.
func (y *year) failOver() {
	if !y.isSettled() {
		return
	}
	y.restart(func() { y.Backend.Cleanup(context.Background()) })
	y.failedOver.Store(time.Now().UnixNano())
}

// simulateStorage makes storage refuse writes for some minutes, or carry them out and say otherwise.
func (y *year) simulateStorage(rng *rand.Rand) {
	for time.Now().Before(y.end) {
		select {
		case <-y.full:
		case <-time.After(min(time.Duration(rng.ExpFloat64()*float64(5*day)), time.Until(y.end))):
		}
		spell := time.Duration(1+rng.IntN(20)) * time.Minute
		prefix, done := []string{"", "config/", "consent/", "state/"}[rng.IntN(4)], rng.IntN(3) == 0
		now := time.Now()
		y.unsettled.Store(now.Add(spell + 3*time.Minute).UnixNano())
		for _, p := range y.people {
			p.mu.Lock()
			p.outages = append(p.outages, outage{from: now, until: now.Add(spell + 7*time.Minute)})
			p.mu.Unlock()
		}
		fault := func(call engine.StorageCall) engine.Fault {
			if call.Op == "put" && strings.HasPrefix(call.Key, prefix) {
				return engine.Fault{Err: engine.ErrStorage, Done: done}
			}
			return engine.Fault{}
		}
		y.disk.OnCall.Store(&fault)
		time.Sleep(spell)
		y.disk.OnCall.Store(nil)
	}
}

// fill makes storage refuse writes, unless it does so already.
func (y *year) fill() {
	select {
	case y.full <- struct{}{}:
	default:
	}
}

// settle waits until storage has accepted what it refused before. It reports whether the year has ended.
func (y *year) settle() bool {
	for !y.isSettled() {
		if y.ended(time.Minute) {
			return true
		}
	}
	return false
}

// reader reads as an agent does, or once a day.
func (y *year) reader(p *person, rng *rand.Rand) {
	for wait := time.Duration(rng.Int64N(int64(time.Hour))); !y.ended(wait); {
		lease := y.readToken(p)
		switch {
		case p.readers == "once a day":
			wait = time.Duration(22+rng.IntN(4)) * time.Hour
		case lease > 0:
			wait = time.Duration((0.85 + 0.1*rng.Float64()) * float64(lease))
		default:
			wait = time.Duration(1+rng.IntN(8)) * time.Hour
		}
	}
}

// readToken reads a token, which must not be of an older consent than the last that is known to be connected
// (guarantee 8).
func (y *year) readToken(p *person) (lease time.Duration) {
	least := int(p.connected.Load())
	token, lease := y.read(p.account)
	if lease == 0 {
		return 0
	}
	if of := p.sim.ConsentOf(token); of < least {
		y.T.Errorf("%s: %s: a token of consent %d is served after consent %d", time.Now(), p.name, of, least)
	}
	return lease
}

// watch receives the engine's events, and checks that each warning is due.
func (y *year) watch() {
	for !y.ended(10 * time.Minute) {
		now := time.Now()
		for _, sent := range y.Events() {
			if sent.Kind != "tokenbroker/consent-required" {
				continue
			}
			y.warnings.Add(1)
			for _, p := range y.people {
				if p.name != sent.Metadata["name"] || p.hasConsentedSince(now.Add(-15*time.Minute)) { // it may be of before
					continue
				}
				if _, mayBe := p.isRequired(now); !mayBe {
					y.T.Errorf("%s: %s is warned of without a reason: %v", now, p.name, sent.Metadata)
				}
				p.warn()
			}
		}
	}
}

// audit compares the status of a credential with what is known of its refresh token, at random times.
func (y *year) audit(p *person, rng *rand.Rand) {
	for !y.ended(time.Duration(rng.ExpFloat64() * float64(12*time.Hour))) {
		before := time.Now()
		mustBe, _ := p.isRequired(before)
		var resp *logical.Response
		status, message := y.send(logical.ReadOperation, "status/"+p.name, nil, &resp)
		if !assert.Equal(y.T, http.StatusOK, status, message) {
			continue
		}
		_, mayBe := p.isRequired(time.Now())
		stillMustBe, _ := p.isRequired(time.Now())
		consent := resp.Data["consent"].(map[string]any)
		if required := consent["required"].(bool); required && !mayBe || !required && mustBe && stillMustBe {
			y.T.Errorf("%s: consent to %s (%s): required is %t, %s", before, p.name, p.kind, required, p.describe())
		}
		if warned := p.isWarned(); !warned && p.isOverdue(before) {
			y.T.Errorf("%s: %s (%s) is not warned of, %s", before, p.name, p.kind, p.describe())
		}
	}
}

// inspect checks every day that the metric says the same, and that storage does not grow: a credential has one
// entry of consents, however many have begun.
func (y *year) inspect() {
	for !y.ended(day) {
		var resp *logical.Response
		before := time.Now()
		if status, message := y.send(logical.ReadOperation, "metrics", map[string]any{"names": "all"}, &resp); !assert.Equal(y.T, http.StatusOK, status, message) {
			continue
		}
		text := string(resp.Data[logical.HTTPRawBody].([]byte))
		for _, p := range y.people {
			mustBe, mayBe := p.isRequired(before)
			_, after, _ := strings.Cut(text, fmt.Sprintf("tokenbroker_consent_required{name=%q,vendor=%q} ", p.name, p.kind))
			value, _, _ := strings.Cut(after, "\n")
			if value == "" && time.Now().UnixNano()-y.failedOver.Load() < int64(2*time.Minute) {
				continue // the active node has not looked at its credentials yet
			}
			if value != "1.0" && mustBe || value != "0.0" && !mayBe {
				y.T.Errorf("%s: %s (%s): tokenbroker_consent_required is %q, %s", before, p.name, p.kind, value, p.describe())
			}
		}
		kinds := map[string]int{}
		for key, value := range y.Dump() {
			kind, _, _ := strings.Cut(key, "/")
			kinds[kind]++
			assert.Less(y.T, len(value), 8<<10, key)
		}
		assert.LessOrEqual(y.T, kinds["consent"], persons)
		assert.LessOrEqual(y.T, kinds["config"], persons)
		assert.LessOrEqual(y.T, kinds["state"], 2*persons)
	}
}

// count counts an outcome.
func (y *year) count(outcome string) {
	n, _ := y.outcomes.LoadOrStore(outcome, &atomic.Int64{})
	n.(*atomic.Int64).Add(1)
}

func (y *year) counted(outcome string) int64 {
	n, found := y.outcomes.Load(outcome)
	if !found {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// checkResults logs and checks the results of the year.
func (y *year) checkResults() {
	var outcomes []string
	y.outcomes.Range(func(outcome, n any) bool {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", n.(*atomic.Int64).Load(), outcome))
		return true
	})
	consents := 0
	for _, p := range y.people {
		consents += len(p.sim.Consents())
		assert.LessOrEqual(y.T, p.sim.MostInFlight(), 1, "%s: exchanges in flight at once", p.name)
		assert.Empty(y.T, p.sim.Violations(), p.name)
		assert.Zero(y.T, p.sim.EarlyPolls(), "%s: polls before the end of the interval", p.name)
		for code, times := range p.sim.SentCodes() {
			assert.Equal(y.T, 1, times, "%s: %s was sent again", p.name, code)
		}
	}
	y.T.Logf("seed %d: %s of %d people: %d consents exchanged, %d reads (%d failed), %d warnings, %d failovers; attempts: %s",
		*seed, yearSpan(), persons, consents, y.reads.Load(), y.failed.Load(), y.warnings.Load(), y.restarts.Load(), strings.Join(outcomes, ", "))
	assert.Zero(y.T, y.expired.Load())
	assert.Zero(y.T, y.failedWrongly.Load())
	for _, outcome := range []string{"connected", "refused", "left", "too late", "double click", "on another device", "pasted", "old link"} {
		assert.True(y.T, testing.Short() || y.counted(outcome) > 0, "nobody: %s", outcome)
	}

	y.Backend.Cleanup(context.Background())
	y.Restart()
	for _, p := range y.people {
		_, status, message := y.Request(logical.DeleteOperation, p.path, nil)
		require.Equal(y.T, http.StatusOK, status, message)
	}
	for key := range y.Dump() {
		assert.True(y.T, strings.HasPrefix(key, "vendor/"), "%s is left in storage", key)
	}
	y.Backend.Cleanup(context.Background())
}
