package tokenbroker_test

import (
	"context"
	"flag"
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

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

var seed = flag.Uint64("seed", 1, "the seed of the thirty-day simulation")

const credentials = 200

// span is how long is simulated: thirty days, or six hours with -short. The race
// detector crashes after some 65,000 timers of one synctest bubble (golang/go#78156).
func span() time.Duration {
	if testing.Short() {
		return 6 * time.Hour
	}
	return 30 * 24 * time.Hour
}

// How the credentials of the simulation are made, and who reads them.
var (
	simKinds   = []string{"opaque", "JWT", "opaque, rotating", "JWT, rotating", "key pair", "API key", "refresh token of a pair"}
	simReaders = []string{"agents", "poller", "once a day", "nobody"}
)

// account is one credential of the simulation, with a vendor of its own.
type account struct {
	name, kind, readers string
	sim                 *vendorsim.Sim
	conduct             vendorsim.Conduct // on a good day
	path                string
	fields              map[string]any

	mu     sync.Mutex
	events []event
	bad    []badSpell
}

// event is a read that was served, with a lease until then, or a write of the
// credential.
type event struct {
	at, until time.Time
	write     bool
}

// badSpell is when the vendor was down or throttling, and until when the engine may
// leave it alone for that.
type badSpell struct{ from, until time.Time }

// month is a run of the simulation.
type month struct {
	*engine
	random   *rand.Rand
	end      time.Time
	accounts []*account
	paused   atomic.Bool
	requests atomic.Int64

	reads, dead, failedWrongly, failed, restarts, writes atomic.Int64
}

// TestThirtyDays is promises 1 to 11 at once: thirty days of 200 credentials.
func TestThirtyDays(t *testing.T) {
	started := time.Now()
	var m *month
	synctest.Test(t, func(t *testing.T) {
		m = newMonth(t, *seed)
		m.run()
		m.judge()
	})
	t.Logf("simulated %s in %s", span(), time.Since(started).Round(time.Millisecond))
}

func newMonth(t *testing.T, seed uint64) *month {
	m := &month{engine: newEngine(t), random: rand.New(rand.NewPCG(seed, 0)), end: time.Now().Add(span())}
	for i := range credentials {
		m.accounts = append(m.accounts, m.newAccount(i))
	}
	ports := map[string]http.Handler{}
	for i, a := range m.accounts {
		ports[fmt.Sprint(10_000+i)] = a.sim
	}
	m.transport = vendorsim.Transport(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ports[r.URL.Port()].ServeHTTP(w, r)
	}))
	m.restart()
	return m
}

func (m *month) newAccount(i int) *account {
	a := &account{
		name:    fmt.Sprintf("c%03d", i),
		kind:    simKinds[i%len(simKinds)],
		readers: simReaders[i/len(simKinds)%len(simReaders)],
		sim:     vendorsim.New(),
	}
	a.sim.Forgetful()
	// A loopback port stands for the vendor.
	base := fmt.Sprintf("http://127.0.0.1:%d", 10_000+i)
	a.conduct = vendorsim.Conduct{
		Latency: time.Duration(20+m.random.IntN(300)) * time.Millisecond,
		Skew:    time.Duration(m.random.IntN(16*60)-8*60) * time.Second,
		JWT:     strings.HasPrefix(a.kind, "JWT"),
		Rotate:  strings.HasSuffix(a.kind, "rotating"),
	}
	a.sim.Behave(a.conduct)
	switch a.kind {
	case "key pair":
		a.sim.AddClient(clientID, &privateKey().PublicKey, "")
		a.path = "config/kensho/" + a.name
		a.fields = map[string]any{"client_id": clientID, "private_key": privateKeyPEM(), "token_url": vendorsim.URL(base, "https://kensho.okta.com/oauth2/default/v1/token")}
	case "API key":
		a.sim.AddAPIKey(apiKey)
		a.path = "config/sitecore/" + a.name
		a.fields = map[string]any{"api_key": apiKey, "base_url": vendorsim.URL(base, "https://api.rfksrv.com")}
	case "refresh token of a pair":
		a.sim.AddPair(refreshToken, 12*time.Hour, 90*24*time.Hour)
		a.path = "config/sitecore/" + a.name
		a.fields = map[string]any{"refresh_token": refreshToken, "access_expiry": "12h", "base_url": vendorsim.URL(base, "https://api.rfksrv.com")}
	default:
		a.sim.AddRefreshToken("link-streaming", refreshToken)
		a.path = "config/kensho/" + a.name
		a.fields = map[string]any{"refresh_token": refreshToken, "refresh_url": vendorsim.URL(base, "https://link-streaming.kensho.com/oauth2/refresh")}
	}
	return a
}

// run lets the month pass.
func (m *month) run() {
	var all sync.WaitGroup
	for _, a := range m.accounts {
		// Each has dice of its own, so that who goes first does not matter.
		dice := func() *rand.Rand { return rand.New(rand.NewPCG(m.random.Uint64(), m.random.Uint64())) }
		m.send(logical.UpdateOperation, a.path, a.fields, nil)
		a.note(event{at: time.Now(), write: true})
		weather, operator := dice(), dice()
		all.Go(func() { m.weather(a, weather) })
		all.Go(func() { m.operator(a, operator) })
		switch a.readers {
		case "agents":
			for range 2 {
				agent := dice()
				all.Go(func() { m.agent(a, agent) })
			}
		case "poller":
			poller := dice()
			all.Go(func() { m.poller(a, poller, 5*time.Minute, 15*time.Minute) })
		case "once a day":
			poller := dice()
			all.Go(func() { m.poller(a, poller, 22*time.Hour, 26*time.Hour) })
		}
	}
	restarts := rand.New(rand.NewPCG(m.random.Uint64(), 0))
	all.Go(func() { m.restarter(restarts) })
	all.Go(m.ticker)
	all.Wait()
	for _, a := range m.accounts {
		if a.readers == "nobody" {
			a.note(event{at: m.end}) // stands for no read, but for the keepalives until then
		}
	}
}

// over waits, and is whether the month has ended.
func (m *month) over(wait time.Duration) bool {
	if time.Now().Add(wait).After(m.end) {
		return true
	}
	time.Sleep(wait)
	return false
}

// send sends a request when the engine is not down for a restart.
func (m *month) send(op logical.Operation, path string, data map[string]any, resp **logical.Response) (status int, message string) {
	for m.paused.Load() {
		time.Sleep(100 * time.Millisecond)
	}
	m.requests.Add(1)
	defer m.requests.Add(-1)
	got, status, message := m.request(op, path, data)
	if resp != nil {
		*resp = got
	}
	return status, message
}

// read reads a token as an application would, and judges what came.
func (m *month) read(a *account) (lease time.Duration) {
	asked := time.Now()
	var resp *logical.Response
	status, message := m.send(logical.ReadOperation, "creds/"+a.name, nil, &resp)
	now := time.Now()
	m.reads.Add(1)
	if status != http.StatusOK {
		m.failed.Add(1)
		// A token that another read could have had, or a vendor who has been well for
		// longer than the engine may leave him alone.
		if _, death := a.sim.Issued(); now.Before(death.Add(-12*time.Second)) || !a.excused(asked, now) {
			m.failedWrongly.Add(1)
			m.t.Errorf("%s: %s (%s), read by %s: failed wrongly with %d %s", now, a.name, a.kind, a.readers, status, message)
		}
		return 0
	}
	a.note(event{at: now, until: now.Add(resp.Secret.TTL)})
	left := a.sim.Death(resp.Data["access_token"].(string)).Sub(now)
	if margin := min(30*time.Second, left/20); resp.Secret.TTL > left-margin || resp.Secret.TTL < time.Second {
		m.dead.Add(1)
		m.t.Errorf("%s: %s (%s): a token with %s left was leased for %s", now, a.name, a.kind, left, resp.Secret.TTL)
	}
	return resp.Secret.TTL
}

// agent reads again after 85 to 95 % of a lease, and as Vault Agent does after a
// failure: 250 ms later, then twice as long each time up to a minute.
func (m *month) agent(a *account, dice *rand.Rand) {
	retry := 250 * time.Millisecond
	for wait := time.Duration(dice.Int64N(int64(time.Hour))); !m.over(wait); {
		lease := m.read(a)
		if lease > 0 {
			wait, retry = time.Duration((0.85+0.1*dice.Float64())*float64(lease)), 250*time.Millisecond
			continue
		}
		wait, retry = retry, min(2*retry, time.Minute)
	}
}

func (m *month) poller(a *account, dice *rand.Rand, least, most time.Duration) {
	for !m.over(least + time.Duration(dice.Int64N(int64(most-least)))) {
		m.read(a)
	}
}

// ticker is Vault's rollback manager.
func (m *month) ticker() {
	for !m.over(time.Minute) {
		for m.paused.Load() {
			time.Sleep(100 * time.Millisecond)
		}
		m.requests.Add(1)
		_, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		m.requests.Add(-1)
		assert.NoError(m.t, err)
	}
}

// weather is the vendor's bad days: outages of minutes and of hours, throttling,
// slow answers.
func (m *month) weather(a *account, dice *rand.Rand) {
	for !m.over(time.Duration(dice.ExpFloat64() * float64(4*24*time.Hour))) {
		conduct, spell := a.conduct, time.Duration(1+dice.IntN(30))*time.Minute
		leave := 7 * time.Minute // the longest backoff, and a renewal that fails in it
		switch dice.IntN(6) {
		case 0, 1:
			conduct.Fault = vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, "down"))
		case 2:
			conduct.Fault = vendorsim.Always(vendorsim.Reset)
			spell = time.Duration(1+dice.IntN(12)) * time.Hour
		case 3:
			seconds := 30 + dice.IntN(1800)
			conduct.Fault = vendorsim.Always(vendorsim.Throttle(fmt.Sprint(seconds)))
			leave = max(leave, time.Duration(seconds+60)*time.Second)
		case 4:
			conduct.Fault = vendorsim.Always(vendorsim.Hang)
		case 5: // slow, and in time all the same
			conduct.Latency = time.Duration(1+dice.IntN(8)) * time.Second
			spell, leave = time.Duration(1+dice.IntN(12))*time.Hour, 0
		}
		a.sim.Behave(conduct)
		if conduct.Fault != nil {
			a.mu.Lock()
			now := time.Now()
			a.bad = append(a.bad, badSpell{from: now, until: now.Add(spell + leave)})
			a.mu.Unlock()
		}
		time.Sleep(spell)
		a.sim.Behave(a.conduct)
	}
}

// operator writes a setting now and then, or the credential itself.
func (m *month) operator(a *account, dice *rand.Rand) {
	for !m.over(time.Duration(dice.ExpFloat64() * float64(20*24*time.Hour))) {
		fields := map[string]any{"request_timeout": 10 + dice.IntN(3)}
		if a.fields["refresh_token"] != nil && strings.HasPrefix(a.path, "config/kensho/") && dice.IntN(2) == 0 {
			fields["refresh_token"] = fmt.Sprintf("from-the-account-page-%d", dice.Uint64())
			a.sim.AddRefreshToken("link-streaming", fields["refresh_token"].(string))
		}
		if status, _ := m.send(logical.UpdateOperation, a.path, fields, nil); status == http.StatusOK {
			m.writes.Add(1)
			a.note(event{at: time.Now(), write: true})
		}
	}
}

// restarter restarts the engine now and then: once what is under way has ended, as
// a server does that is told to stop.
func (m *month) restarter(dice *rand.Rand) {
	for !m.over(time.Duration(dice.ExpFloat64() * float64(2*24*time.Hour))) {
		m.paused.Store(true)
		for m.busy() {
			time.Sleep(100 * time.Millisecond)
		}
		m.restart()
		m.restarts.Add(1)
		m.paused.Store(false)
	}
}

func (m *month) busy() bool {
	if m.requests.Load() > 0 {
		return true
	}
	for _, a := range m.accounts {
		if a.sim.InFlight() > 0 {
			return true
		}
	}
	return false
}

func (a *account) note(e event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
}

// excused is whether the vendor gave a reason to fail at some time from to until.
func (a *account) excused(from, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, spell := range a.bad {
		if !until.Before(spell.from) && !from.After(spell.until) {
			return true
		}
	}
	return false
}

// judge prints and asserts what the month came to.
func (m *month) judge() {
	require.False(m.t, m.t.Failed(), "see above")
	issued, least, calls := map[string]int{}, map[string]int{}, 0
	most, lost := 0, 0
	for _, a := range m.accounts {
		tokens, _ := a.sim.Issued()
		issued[a.kind] += tokens
		least[a.kind] += a.least()
		calls += a.sim.Count()
		most = max(most, a.sim.MostInFlight())
		assert.Empty(m.t, a.sim.Violations())

		// The vendor is well again; is the credential?
		a.sim.Behave(a.conduct)
		if status, message := m.send(logical.UpdateOperation, "refresh/"+a.name, nil, nil); status != http.StatusOK {
			lost++
			m.t.Errorf("%s (%s) is lost: %s", a.name, a.kind, message)
		}
	}
	var table strings.Builder
	total, totalLeast := 0, 0
	for _, kind := range simKinds {
		fmt.Fprintf(&table, "\n  %-24s %7d exchanges, %7d at the least: %.3f", kind, issued[kind], least[kind], float64(issued[kind])/float64(least[kind]))
		total, totalLeast = total+issued[kind], totalLeast+least[kind]
	}
	ratio := float64(total) / float64(totalLeast)
	m.t.Logf("seed %d: %s of %d credentials, %d reads, %d config writes, %d restarts, %d calls to vendors%s",
		*seed, span(), credentials, m.reads.Load(), m.writes.Load(), m.restarts.Load(), calls, table.String())
	m.t.Logf("tokens served dead or dying before their lease: %d; credentials lost: %d; reads failed while a good token existed or the vendor was up: %d (failed with a reason: %d); exchanges against the theoretical least: %.3f; most exchanges in flight for one credential: %d",
		m.dead.Load(), lost, m.failedWrongly.Load(), m.failed.Load(), ratio, most)
	assert.Zero(m.t, m.dead.Load())
	assert.Zero(m.t, lost)
	assert.Zero(m.t, m.failedWrongly.Load())
	assert.LessOrEqual(m.t, ratio, 1.10)
	assert.Equal(m.t, 1, most)
}

// least is how many exchanges would have done by hindsight: one for each token's
// lifetime while somebody held a lease, one for each keepalive, and one to verify
// each write.
func (a *account) least() int {
	const keepalive = 24 * time.Hour
	diesOfDisuse := strings.HasPrefix(a.path, "config/kensho/") && a.kind != "key pair"
	exchanges := 0
	var last, death time.Time
	exchange := func(at time.Time) {
		exchanges++
		last, death = at, at.Add(a.lifetime(at))
	}
	for _, e := range a.events {
		for diesOfDisuse && exchanges > 0 && e.at.Sub(last) > keepalive {
			exchange(last.Add(keepalive))
		}
		if e.write || e.at.After(death) {
			exchange(e.at)
		}
		for e.until.After(death) {
			exchange(death)
		}
	}
	return exchanges
}

func (a *account) lifetime(at time.Time) time.Duration {
	switch a.kind {
	case "key pair":
		return time.Hour
	case "API key":
		return 24 * time.Hour
	case "refresh token of a pair":
		return 12 * time.Hour
	}
	vendors := at.Add(a.conduct.Skew)
	return vendors.Truncate(time.Hour).Add(time.Hour).Sub(vendors)
}
