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

// A trial is one flow that meets with one fault.
type trial struct {
	*stage
	flow    storageFlow
	fault   storageFault
	row     *tally.Row
	call    engine.StorageCall // the first that goes wrong
	where   string
	before  []string // the refresh tokens that the vendors took
	excused bool     // whether a refresh token may be lost
}

// blame counts what should not have happened.
func (r *trial) blame(count *int, format string, args ...any) {
	r.T.Helper()
	*count++
	r.T.Errorf("%s: %s", r.where, fmt.Sprintf(format, args...))
}

// spoil has the nth call from now on go wrong.
func (r *trial) spoil(n int) {
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
	defer r.storage.Settle() // what a kill leaves behind ends without an effect
	r.spoil(n)
	a := r.flow.when(r.stage)
	if a.status != http.StatusOK && a.status != http.StatusInternalServerError && !a.gone {
		r.blame(&r.row.Failed, "answered %d: %s", a.status, a.message)
	}
	r.check(a)
	r.storage.OnCall.Store(nil)
	r.follow(ending)
	if r.lost(a, ending) {
		return
	}
	if a.status == http.StatusOK {
		r.agree("it was done")
	}
	r.repeat("the flow")
	r.Restart()
	r.repeat("the flow after a restart")
	r.live()
}

// follow has time pass, or the process end.
func (r *trial) follow(ending string) {
	r.T.Helper()
	if ending == "a kill" {
		r.storage.Killed.Store(true)
		r.Storage = r.storage.Storage
		r.storage = r.BreakStorage()
		r.Restart()
		return
	}
	r.storage.Settle()
	if ending == "readers alone" {
		time.Sleep(6 * time.Second)
		for _, name := range r.names() {
			r.reader(name)
		}
		r.compare()
		return
	}
	for range 5 {
		time.Sleep(time.Minute)
		if err := r.Tick(); err != nil {
			r.blame(&r.row.Failed, "a tick: %s", err)
		}
	}
	for _, name := range r.names() {
		if status := r.Read("status/" + name).Data; status["storage_error"] != nil {
			r.blame(&r.row.Failed, "%s is not healed by ticks: %s", name, status["storage_error"])
		}
	}
}

// compare compares what readers get with what they would get of an engine that knows
// what storage has, and nothing else.
func (r *trial) compare() {
	r.T.Helper()
	old := r.Backend
	defer func() { r.Backend = old }()
	for _, name := range []string{"prod", "api", "search", "a", "b", "link", "web"} {
		r.Backend = old
		is := r.ask(logical.ReadOperation, "creds/"+name, nil)
		r.Restart()
		shall := r.ask(logical.ReadOperation, "creds/"+name, nil)
		if is.status != shall.status || is.token() != shall.token() || is.lent() != shall.lent() {
			r.blame(&r.row.Failed, "creds/%s is not of what is stored: it answers %d %s, and after a restart %d %s", name, is.status, is.message, shall.status, shall.message)
		}
	}
}

// names are the credentials that there are.
func (r *trial) names() []string {
	r.T.Helper()
	resp, _, _ := r.Request(logical.ListOperation, "config/", nil)
	names, _ := resp.Data["keys"].([]string)
	return names
}

// lost is whether a refresh token is lost, as it may be in a few cases, so that there is
// nothing that the flow could be repeated with.
func (r *trial) lost(a answer, ending string) bool {
	r.T.Helper()
	stored := r.stored()
	isLost := slices.ContainsFunc(r.Sim.RefreshTokens(), func(token string) bool {
		return !slices.Contains(r.before, token) && !strings.Contains(stored, token)
	})
	held := strings.Contains(a.message, "write the same again soon") && a.status == http.StatusInternalServerError
	switch {
	case !isLost, held && ending != "a kill":
		return false
	case ending == "a kill" && r.fault.goesOn() && a.status != http.StatusOK && r.call.Op == "put" && r.call.Key != "fence":
		// A process that is killed while storage refuses what the vendor has just answered
		// takes it along: there is nowhere else to put it. That is so only if what went wrong
		// began with that write: a vendor is not called while storage refuses.
		r.excused = true
		r.replace(held)
		return true
	}
	r.blame(&r.row.Lost, "what the vendor gave is not in storage (answered %d: %s)", a.status, a.message)
	return true
}

// replace has the operators be told that their credentials, or the new one that they were
// about to write, are of no use any more, and write others.
func (r *trial) replace(isNew bool) {
	r.T.Helper()
	told := func(a answer) bool {
		return a.status == http.StatusBadRequest && strings.Contains(a.message, "the vendor rejected the credential")
	}
	if isNew {
		if a := r.flow.when(r.stage); !told(a) {
			r.blame(&r.row.Lost, "the next write answered %d: %s", a.status, a.message)
		}
	} else {
		time.Sleep(25 * time.Hour)
		if !slices.ContainsFunc(r.names(), func(name string) bool { return told(r.ask(logical.ReadOperation, "creds/"+name, nil)) }) {
			r.blame(&r.row.Lost, "nobody is told that a credential is of no use any more")
		}
	}
	if slices.Contains(r.names(), "prod") {
		r.Sim.AddRefreshToken("link-streaming", "one-more")
		r.Write("config/kensho/prod", map[string]any{"refresh_token": "one-more"})
		r.reader("prod")
	}
}

// repeat repeats the flow, which nothing keeps from succeeding any more.
func (r *trial) repeat(what string) {
	r.T.Helper()
	again := r.flow.again
	if again == nil {
		again = r.flow.when
	}
	a := again(r.stage)
	if a.status != http.StatusOK {
		r.blame(&r.row.Failed, "%s answered %d: %s", what, a.status, a.message)
		return
	}
	r.check(a)
	r.agree(what + " was repeated")
}

// agree checks what is so once the flow has been done.
func (r *trial) agree(after string) {
	r.T.Helper()
	if complaint := r.flow.complaint(r.stage); complaint != "" {
		r.blame(&r.row.Failed, "%s, and then %s", after, complaint)
	}
}

// check checks a token that was served.
func (r *trial) check(a answer) {
	r.T.Helper()
	token := a.token()
	switch {
	case token == "":
	case !r.Sim.Accepts(token):
		r.blame(&r.row.Dead, "a token was served that no vendor takes")
	case !strings.Contains(r.stored(), token):
		r.blame(&r.row.Failed, "a token was served that storage does not know")
	}
}

// live exchanges each credential once more.
func (r *trial) live() {
	r.T.Helper()
	time.Sleep(25 * time.Hour) // by then every token has died
	for _, name := range r.names() {
		r.reader(name)
	}
}

// reader reads a token that there is no reason not to get.
func (r *trial) reader(name string) {
	r.T.Helper()
	a := r.ask(logical.ReadOperation, "creds/"+name, nil)
	switch a.status {
	case http.StatusOK:
		r.check(a)
	case http.StatusBadRequest:
		r.blame(&r.row.Lost, "creds/%s: %s", name, a.message)
	default:
		r.blame(&r.row.Failed, "creds/%s answered %d: %s", name, a.status, a.message)
	}
}
