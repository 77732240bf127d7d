package simulation_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	rotationGrace = 24 * time.Hour

	// step is the time between two runs of the background work. Vault has one a minute.
	step = 10 * time.Minute

	// keyed is how many of the credentials of each kind that generates an RSA key there are. The others share the rest.
	keyed = 5
)

// rotationSpan returns the simulated time: a year, or 70 days with -short.
func rotationSpan() time.Duration {
	if testing.Short() {
		return 70 * day
	}
	return 365 * day
}

// rotatingCredentials returns how many credentials there are: 200, or 60 with -short.
func rotatingCredentials() int {
	if testing.Short() {
		return 60
	}
	return credentials
}

// A rotationYear is a simulated year in which the secrets of 200 credentials rotate every 30 days, or each month.
type rotationYear struct {
	*engine.Engine
	accounts []*rotated

	skew      time.Duration        // of the vendors' clocks
	recovered map[string]time.Time // when a host was last up again

	mu                   sync.Mutex // guards the following, since vendors and storage are called by many goroutines
	storage              *engine.FaultyStorage
	rng                  *rand.Rand
	outages              map[string]time.Time // until when a host is down
	storageUntil         time.Time            // until when storage refuses writes
	killed               string               // where the engine is killed; "" if it runs
	windowUntil          time.Time            // until when GitLab may have the only copy of a token
	isRunning            bool                 // after all credentials are stored, until the year is over
	crashes, lostAnswers int

	reads, failedWrongly, expired, failedInOutage, rotations, failures, outagesBegun int

	lost, orphans, storageOutages, old, operations int
}

// intN returns a random number below n.
func (y *rotationYear) intN(n int) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.rng.IntN(n)
}

// isKilled reports whether the engine is killed.
func (y *rotationYear) isKilled() bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.killed != ""
}

// rotated is a credential whose secret rotates.
type rotated struct {
	kind, name, path, host string
}

var slowKinds = map[string]bool{"auth0/private_key": true, "entra/certificate": true, "google": true, "okta-api": true, "snowflake": true}

// TestAYearOfRotations checks that in a year of outages, crashes at any point, lost answers and wrong clocks no secret
// is lost or left behind, and that readers do not notice.
func TestAYearOfRotations(t *testing.T) {
	started := time.Now()
	synctest.Test(t, func(t *testing.T) {
		y := newRotationYear(t, *seed)
		y.run()
		y.check()
	})
	t.Logf("simulated %s in %s", rotationSpan(), time.Since(started).Round(time.Millisecond))
}

func newRotationYear(t *testing.T, seed uint64) *rotationYear {
	t.Helper()
	y := &rotationYear{Engine: engine.New(t), rng: rand.New(rand.NewPCG(seed, 21)), outages: map[string]time.Time{}, recovered: map[string]time.Time{}}
	y.Sim.Forgetful()
	y.breakStorage()
	kinds := vendorsim.RotatingKinds()
	for i := range rotatingCredentials() {
		kind := kinds[i%len(kinds)]
		for slowKinds[kind] && i >= keyed*len(kinds) {
			kind = kinds[y.intN(len(kinds))]
		}
		y.add(kind, i)
	}
	y.isRunning = true
	return y
}

// hosts are where the vendors of the kinds are, by the part of the kind before the slash.
var hosts = map[string]string{
	"auth0": "auth0.com", "cloudflare": "cloudflare.com", "databricks": "databricks.com", "datadog": "datadoghq.com", "entra": "microsoft",
	"gitlab-token": "gitlab.com", "google": "googleapis.com", "okta-api": "okta.com", "okta": "okta.com", "snowflake": "snowflakecomputing.com",
}

func (y *rotationYear) add(kind string, i int) {
	vendor, _, _ := strings.Cut(kind, "/")
	a := &rotated{kind: kind, name: fmt.Sprintf("c%03d", i), host: hosts[vendor]}
	vendor, fields := y.Sim.AddRotating(kind, a.name)
	a.path = "config/" + vendor + "/" + a.name
	if i%4 == 0 {
		fields["rotation_schedule"] = "0 3 1 * *"
	} else {
		fields["rotation_period"] = "30d"
	}
	y.Write(a.path, fields)
	y.accounts = append(y.accounts, a)
}

// breakStorage gives the engine storage that can be killed, and refuses writes in an outage.
func (y *rotationYear) breakStorage() {
	inner := y.Storage
	if faulty, is := inner.(*engine.FaultyStorage); is {
		inner = faulty.Storage
	}
	storage := &engine.FaultyStorage{Storage: inner, Forgetful: true}
	meet := func(c engine.StorageCall) engine.Fault {
		y.mu.Lock()
		defer y.mu.Unlock()
		switch {
		case !c.Writes():
		case time.Now().Before(y.storageUntil):
			return engine.Fault{Err: engine.ErrStorage}
		case y.mayCrashLocked() && strings.HasPrefix(c.Key, "config/") && !strings.Contains(c.Key, "gitlab-token") && y.rng.IntN(25) == 0:
			y.killLocked("at a write")
			return engine.Fault{Err: engine.ErrStorage, Done: y.rng.IntN(2) == 0}
		}
		return engine.Fault{}
	}
	storage.OnCall.Store(&meet)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.storage, y.Storage = storage, storage
}

// mayCrashLocked reports whether the simulated engine may be killed: after all credentials are stored.
// GitLab replaces a token in place and has the only copy until its answer is stored, so that a crash just then cannot be
// made good.
func (y *rotationYear) mayCrashLocked() bool {
	now := time.Now()
	return y.killed == "" && y.isRunning && now.After(y.windowUntil) && now.After(y.storageUntil.Add(10*time.Minute))
}

func (y *rotationYear) killLocked(where string) {
	y.killed = where
	y.crashes++
}

// conduct returns the behavior of the vendors in a week. Their clocks drift within four minutes.
func (y *rotationYear) conduct() vendorsim.Conduct {
	y.skew = max(-4*time.Minute, min(4*time.Minute, y.skew+time.Duration(y.intN(31)-10)*time.Second))
	return vendorsim.Conduct{
		Skew:        y.skew,
		Propagation: time.Duration(y.intN(4)) * time.Minute,
		Fault: func(r *http.Request) http.HandlerFunc {
			y.mu.Lock()
			defer y.mu.Unlock()
			for host, until := range y.outages {
				if strings.Contains(r.Host, host) && time.Now().Before(until) {
					return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
				}
			}
			return nil
		},
		// GitLab has the only copy of a token that it has just replaced, so its answers are not lost here.
		LostAnswers: func(r *http.Request) bool {
			y.mu.Lock()
			defer y.mu.Unlock()
			if strings.HasSuffix(r.URL.Path, "/self/rotate") {
				y.windowUntil = time.Now().Add(time.Minute)
			}
			if strings.Contains(r.Host, "gitlab") || isTokenRequest(r) || y.rng.IntN(15) > 0 {
				return false
			}
			y.lostAnswers++
			if y.mayCrashLocked() && y.rng.IntN(2) == 0 {
				y.storage.Killed.Store(true)
				y.killLocked("at a request")
			}
			return true
		},
	}
}

// isTokenRequest reports whether a request is for an access token, which readers wait for.
func isTokenRequest(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/token") || strings.HasSuffix(r.URL.Path, "/value") || strings.HasSuffix(r.URL.Path, "access_tokens")
}

// run simulates the year.
func (y *rotationYear) run() {
	end := time.Now().Add(rotationSpan())
	for week := 0; time.Now().Before(end); week++ {
		y.Sim.Behave(y.conduct())
		for range int(7 * day / step) {
			y.simulateOutages()
			time.Sleep(step)
			_ = y.Tick() // reports failures of storage
			y.readSome()
			y.operate()
			y.revive()
		}
		if week > 0 {
			y.countOrphans()
		}
	}
}

// simulateOutages begins an outage of one vendor about every ten days, and one of storage every forty.
func (y *rotationYear) simulateOutages() {
	y.mu.Lock()
	defer y.mu.Unlock()
	now := time.Now()
	for host, until := range y.outages {
		if !now.Before(until) {
			delete(y.outages, host)
			y.recovered[host] = now
		}
	}
	steps := int(10 * day / step)
	if y.rng.IntN(steps) == 0 {
		all := []string{"auth0.com", "cloudflare.com", "databricks.com", "datadoghq.com", "microsoft", "gitlab.com", "googleapis.com", "okta.com", "snowflakecomputing.com"}
		y.outages[all[y.rng.IntN(len(all))]] = now.Add(time.Duration(1+y.rng.IntN(12*60)) * time.Minute)
		y.outagesBegun++
	}
	if y.rng.IntN(4*steps) == 0 {
		y.storageUntil = now.Add(time.Duration(1+y.rng.IntN(90)) * time.Minute)
		y.storageOutages++
	}
}

// operate does what operators do about once a day: change a setting, or have a secret replaced, sometimes after a leak.
func (y *rotationYear) operate() {
	if y.isKilled() || y.intN(int(day/step)) != 0 {
		return
	}
	a := y.accounts[y.intN(len(y.accounts))]
	y.operations++
	switch y.intN(3) { // what fails in an outage is repeated by nobody
	case 0:
		_, _, _ = y.Request(logical.PatchOperation, a.path, map[string]any{"description": fmt.Sprint("operation ", y.operations)})
	case 1:
		_, _, _ = y.Request(logical.UpdateOperation, a.path+"/rotate", nil)
	default:
		_, _, _ = y.Request(logical.UpdateOperation, a.path+"/rotate", map[string]any{"rotation_grace": 0})
	}
}

// revive starts the engine again after a crash.
func (y *rotationYear) revive() {
	if !y.isKilled() {
		return
	}
	synctest.Wait()
	y.Storage.(*engine.FaultyStorage).Killed.Store(true)
	y.breakStorage()
	y.Restart()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.killed = ""
}

// readSome reads some of the credentials, as applications do.
func (y *rotationYear) readSome() {
	for _, a := range y.accounts { // each is read once in two days
		if !y.isKilled() && y.intN(int(2*day/step)) == 0 {
			y.read(a)
		}
	}
}

func (y *rotationYear) read(a *rotated) {
	y.reads++
	resp, status, message := y.Request(logical.ReadOperation, "creds/"+a.name, nil)
	now := time.Now()
	if status == http.StatusOK {
		token := engine.TokenOf(resp)
		until := y.Sim.Expiry(token)
		if a.kind == "snowflake" { // the engine signs its tokens itself, by its own clock
			until = until.Add(y.skew)
		}
		if now.Add(resp.Secret.TTL).After(until) {
			y.expired++
			y.T.Errorf("%s: %s (%s): a token is served until %s, and expires at %s", now, a.name, a.kind, now.Add(resp.Secret.TTL), until)
		}
		return
	}
	if y.excused(a, now) {
		y.failedInOutage++
		return
	}
	y.failedWrongly++
	y.T.Errorf("%s: %s (%s): a read failed while the vendor was up: %d %s", now, a.name, a.kind, status, message)
}

// excused reports whether a read may fail: while the vendor or storage is down or the engine is killed, and in the
// back-off after that.
func (y *rotationYear) excused(a *rotated, now time.Time) bool {
	const backOff = 7 * time.Minute
	y.mu.Lock()
	defer y.mu.Unlock()
	return now.Before(y.outages[a.host]) || now.Before(y.recovered[a.host].Add(backOff)) || now.Before(y.storageUntil.Add(backOff)) || y.killed != ""
}
