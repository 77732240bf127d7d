package faults_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
)

// trial is one run of a flow with one fault.
type trial struct {
	*stage
	flow      storageFlow
	fault     storageFault
	row       *tally.Row
	call      engine.StorageCall // the first call that fails
	where     string
	before    []string // the vendors' valid refresh tokens before the flow
	mayBeLost bool     // whether a refresh token may be lost
}

// report counts a failure of the trial, and fails the test.
func (r *trial) report(count *int, format string, args ...any) {
	r.T.Helper()
	*count++
	r.T.Errorf("%s: %s", r.where, fmt.Sprintf(format, args...))
}

// injectAt makes the nth storage call from now on fail, and later ones if the fault lasts.
func (r *trial) injectAt(n int) {
	var met atomic.Int64
	meet := func(c engine.StorageCall) engine.Fault {
		after := int(met.Add(1)) - 1 - n
		if after == 0 || after > 0 && r.fault.lasting && (c.Writes() || !r.fault.writes) {
			return r.fault.Fault
		}
		return engine.Fault{}
	}
	r.storage.OnCall.Store(&meet)
}

func (r *trial) run(n int, ending string) {
	r.T.Helper()
	r.row.Tried++
	r.before = r.Sim.RefreshTokens()
	defer r.storage.Settle() // calls in progress at a crash end without an effect
	r.injectAt(n)
	a := r.flow.when(r.stage)
	if a.status != http.StatusOK && a.status != http.StatusInternalServerError && !a.gone {
		r.report(&r.row.Failed, "answered %d: %s", a.status, a.message)
	}
	r.checkToken(a)
	r.storage.OnCall.Store(nil)
	r.continueWith(ending)
	if r.lost(a, ending) {
		return
	}
	if a.status == http.StatusOK {
		r.checkOutcome("the request succeeded")
	}
	r.repeat("the flow")
	r.Restart()
	r.repeat("the flow after a restart")
	r.exchangeAll()
}

// continueWith runs an ending: ticks, reads or a crash.
func (r *trial) continueWith(ending string) {
	r.T.Helper()
	if ending == "a crash" {
		r.storage.Killed.Store(true)
		r.Storage = r.storage.Storage
		r.storage = r.BreakStorage()
		r.Restart()
		return
	}
	r.storage.Settle()
	if ending == "reads only" {
		time.Sleep(6 * time.Second)
		for _, name := range r.names() {
			r.readToken(name)
		}
		r.compare()
		return
	}
	for range 5 {
		time.Sleep(time.Minute)
		if err := r.Tick(); err != nil {
			r.report(&r.row.Failed, "a tick: %s", err)
		}
	}
	for _, name := range r.names() {
		if status := r.Read("status/" + name).Data; status["storage_error"] != nil {
			r.report(&r.row.Failed, "ticks do not clear the storage error of %s: %s", name, status["storage_error"])
		}
	}
}

// compare checks that readers get the same from the engine as from a new one on the same storage.
func (r *trial) compare() {
	r.T.Helper()
	old := r.Backend
	defer func() { r.Backend = old }()
	for _, name := range []string{"prod", "api", "search", "a", "b", "link", "web"} {
		r.Backend = old
		is := r.ask(logical.ReadOperation, "creds/"+name, nil)
		r.Restart()
		shall := r.ask(logical.ReadOperation, "creds/"+name, nil)
		if is.status != shall.status || is.token() != shall.token() || is.leaseTTL() != shall.leaseTTL() {
			r.report(&r.row.Failed, "creds/%s differs from what is stored: it answers %d %s, and after a restart %d %s", name, is.status, is.message, shall.status, shall.message)
		}
	}
}

// names returns the names of the credentials.
func (r *trial) names() []string {
	r.T.Helper()
	resp, _, _ := r.Request(logical.ListOperation, "config/", nil)
	names, _ := resp.Data["keys"].([]string)
	return names
}

// lost reports whether a refresh token is lost, so that the flow cannot be repeated. It counts a
// failure, except in the one case in which the loss cannot be avoided.
func (r *trial) lost(a answer, ending string) bool {
	r.T.Helper()
	stored := r.stored()
	isLost := slices.ContainsFunc(r.Sim.RefreshTokens(), func(token string) bool {
		return !slices.Contains(r.before, token) && !strings.Contains(stored, token)
	})
	unstored := strings.Contains(a.message, "send the same write again") && a.status == http.StatusInternalServerError
	switch {
	case !isLost, unstored && ending != "a crash":
		return false
	case ending == "a crash" && r.fault.outlastsRequest() && a.status != http.StatusOK && r.call.Op == "put" && r.call.Key != "probe":
		// A crash while storage refuses the vendor's answer loses it, as it is only in memory.
		// This can happen only if the fault began with the write of that answer: the engine
		// makes no exchange while storage refuses writes.
		r.mayBeLost = true
		r.replace(unstored)
		return true
	}
	r.report(&r.row.Lost, "the vendor's answer is not in storage (answered %d: %s)", a.status, a.message)
	return true
}

// replace checks that the engine reports the credential, or the one being written, as rejected.
// It then writes another one, as an operator would.
func (r *trial) replace(isNew bool) {
	r.T.Helper()
	told := func(a answer) bool {
		return a.status == http.StatusBadRequest && strings.Contains(a.message, "the vendor rejected the credential")
	}
	if isNew {
		if a := r.flow.when(r.stage); !told(a) {
			r.report(&r.row.Lost, "the next write answered %d: %s", a.status, a.message)
		}
	} else {
		time.Sleep(25 * time.Hour)
		if !slices.ContainsFunc(r.names(), func(name string) bool { return told(r.ask(logical.ReadOperation, "creds/"+name, nil)) }) {
			r.report(&r.row.Lost, "no read reports that the credential is rejected")
		}
	}
	if slices.Contains(r.names(), "prod") {
		r.Sim.AddRefreshToken("link-streaming", "one-more")
		r.Write("config/kensho/prod", map[string]any{"refresh_token": "one-more"})
		r.readToken("prod")
	}
}

// repeat repeats the flow without a fault. It must succeed.
func (r *trial) repeat(what string) {
	r.T.Helper()
	again := r.flow.again
	if again == nil {
		again = r.flow.when
	}
	a := again(r.stage)
	if a.status != http.StatusOK {
		r.report(&r.row.Failed, "%s answered %d: %s", what, a.status, a.message)
		return
	}
	r.checkToken(a)
	r.checkOutcome(what + " was repeated")
}

// checkOutcome checks the result of the flow after it has succeeded.
func (r *trial) checkOutcome(after string) {
	r.T.Helper()
	if complaint := r.flow.complaint(r.stage); complaint != "" {
		r.report(&r.row.Failed, "%s, and then %s", after, complaint)
	}
}

// checkToken checks that a served token is valid and stored.
func (r *trial) checkToken(a answer) {
	r.T.Helper()
	token := a.token()
	switch {
	case token == "":
	case !r.Sim.Accepts(token):
		r.report(&r.row.Invalid, "a token was served that no vendor accepts")
	case !strings.Contains(r.stored(), token):
		r.report(&r.row.Failed, "a token was served that is not in storage")
	}
}

// exchangeAll makes one more exchange of each credential.
func (r *trial) exchangeAll() {
	r.T.Helper()
	time.Sleep(25 * time.Hour) // every token expires
	for _, name := range r.names() {
		r.readToken(name)
	}
}

// readToken reads a token. It must succeed.
func (r *trial) readToken(name string) {
	r.T.Helper()
	a := r.ask(logical.ReadOperation, "creds/"+name, nil)
	switch a.status {
	case http.StatusOK:
		r.checkToken(a)
	case http.StatusBadRequest:
		r.report(&r.row.Lost, "creds/%s: %s", name, a.message)
	default:
		r.report(&r.row.Failed, "creds/%s answered %d: %s", name, a.status, a.message)
	}
}
