package tokenbroker_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/tally"
)

// clientPatience is how long Vault lets a request take unless it is told otherwise
// (default_max_request_duration).
const clientPatience = 90 * time.Second

// hung is longer than anybody waits for storage: a client, or the engine itself, which
// gives up after three minutes.
const hung = 10 * time.Minute

// A storageFault is one way in which a call can go wrong.
type storageFault struct {
	name string
	mood

	// writes is whether it is for writes alone: a read that fails has no effect that could
	// be there all the same. lasting is whether all calls that follow go the same way, until
	// storage is mended.
	writes, lasting bool
}

var storageFaults = []storageFault{
	{name: "refuses", mood: mood{err: errStorage}},
	{name: "does it and says that it failed", mood: mood{err: errStorage, done: true}, writes: true},
	{name: "is slow", mood: mood{wait: 5 * time.Second}},
	{name: "hangs", mood: mood{wait: hung}},
	{name: "does it and hangs", mood: mood{wait: hung, done: true}, writes: true},
	{name: "refuses until it is mended", mood: mood{err: errStorage}, lasting: true},
	{name: "does it and says that it failed until it is mended", mood: mood{err: errStorage, done: true}, writes: true, lasting: true},
	{name: "hangs until it is mended", mood: mood{wait: hung}, lasting: true},
}

// goesOn is whether the fault may still be there when the client has been answered.
func (f storageFault) goesOn() bool { return f.lasting || f.wait > clientPatience }

// endings are what follows on a request that met with a fault, once storage is mended: one
// of them in turn in the short form of the suite, each of them in the long one.
var endings = []string{"ticks alone", "readers alone", "a kill"}

// A stage is an engine that a flow is about to run on.
type stage struct {
	*engine
	storage *moodyStorage

	older   string            // the token that was good before
	lease   *logical.Response // of a dedicated token
	pending any               // the key ID of a pending pair
}

// An answer is what came of a request.
type answer struct {
	*logical.Response
	status  int
	message string
	gone    bool // the client has given up before
}

func (a answer) token() string {
	if a.Response == nil {
		return ""
	}
	token, _ := a.Data["access_token"].(string)
	return token
}

// ask sends the request of a client who has Vault's patience.
func (s *stage) ask(op logical.Operation, path string, data map[string]any) answer {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), clientPatience)
	defer cancel()
	resp, status, message := s.requestWithin(ctx, op, path, data)
	return answer{resp, status, message, ctx.Err() != nil}
}

// done is the answer to what only succeeds or fails.
func done(err error) answer {
	if err != nil {
		return answer{status: http.StatusInternalServerError, message: err.Error()}
	}
	return answer{status: http.StatusOK}
}

// stored is all that storage has, whatever its mood is.
func (s *stage) stored() string {
	s.t.Helper()
	asIs := *s.engine
	asIs.storage = s.storage.Storage
	return fmt.Sprint(asIs.dump())
}

// TestFaultStorage has every storage call of every flow fail in turn, and the flow
// repeated after each.
func TestFaultStorage(t *testing.T) {
	rows := map[string]*tally.Row{}
	for _, fault := range storageFaults {
		rows[fault.name] = &tally.Row{Fault: "storage: " + fault.name}
	}
	excused := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(storageFlows)) {
		flow := storageFlows[name]
		t.Run(name, func(t *testing.T) {
			calls := flow.calls(t)
			assert.Equal(t, flow.cached, len(calls) == 0, "%v", calls)
			for n, call := range calls {
				for i, fault := range storageFaults {
					if fault.writes && !call.writes() {
						continue
					}
					for j := range tally.Times(1, len(endings)) {
						ending := endings[(n+i+j)%len(endings)]
						synctest.Test(t, func(t *testing.T) {
							trial := &trial{
								stage: flow.stage(t), flow: flow, fault: fault, row: rows[fault.name],
								where: fmt.Sprintf("call %d (%s %s) %s, then %s", n+1, call.op, call.key, fault.name, ending),
							}
							trial.run(n, ending)
							if trial.excused != "" {
								excused[fault.name+": "+trial.excused]++
							}
						})
					}
				}
			}
		})
	}
	for _, fault := range storageFaults {
		row := rows[fault.name]
		for _, excuse := range []string{killedExcuse, toldExcuse} {
			if times := excused[fault.name+": "+excuse]; times > 0 {
				row.Note = strings.TrimPrefix(fmt.Sprintf("%s; %d %s", row.Note, times, excuse), "; ")
			}
		}
		tally.Record(t, *row)
	}
}

// stage makes what the flow runs on.
func (f storageFlow) stage(t *testing.T) *stage {
	t.Helper()
	s := &stage{engine: newEngine(t)}
	f.given(s)
	s.storage = s.moody()
	return s
}

// calls are those of the flow if nothing goes wrong.
func (f storageFlow) calls(t *testing.T) []storageCall {
	t.Helper()
	var calls []storageCall
	synctest.Test(t, func(t *testing.T) {
		s := f.stage(t)
		note := func(c storageCall) mood {
			calls = append(calls, c)
			return mood{}
		}
		s.storage.meet.Store(&note)
		a := f.when(s)
		s.storage.meet.Store(nil)
		require.Equal(t, http.StatusOK, a.status, a.message)
		require.Empty(t, f.complaint(s))
	})
	return calls
}

func (f storageFlow) complaint(s *stage) string {
	if f.then == nil {
		return ""
	}
	return f.then(s)
}

// A trial is one flow that meets with one fault.
type trial struct {
	*stage
	flow    storageFlow
	fault   storageFault
	row     *tally.Row
	where   string
	before  []string // the refresh tokens that the vendors took
	excused string   // why a refresh token may be lost
}

// The excuses for a refresh token that is lost.
const (
	// A process that is killed while storage refuses what the vendor has just answered
	// takes it along: there is nowhere else to put it.
	killedExcuse = "refresh tokens went with a process that was killed before storage could be written"

	// A new credential that cannot be stored is not kept in memory: there is none of its
	// name, and its operator, who is told, has it at hand.
	toldExcuse = "new refresh tokens were replaced by the vendor while they could not be stored, and their operator was told so"
)

// blame counts what should not have happened.
func (r *trial) blame(count *int, format string, args ...any) {
	r.t.Helper()
	*count++
	r.t.Errorf("%s: %s", r.where, fmt.Sprintf(format, args...))
}

// spoil has the nth call from now on go wrong.
func (r *trial) spoil(n int) {
	met := 0
	meet := func(storageCall) mood {
		met++
		if met-1 == n || r.fault.lasting && met > n {
			return r.fault.mood
		}
		return mood{}
	}
	if r.fault.writes && r.fault.lasting {
		whole := meet
		meet = func(c storageCall) mood {
			if m := whole(c); c.writes() {
				return m
			}
			return mood{}
		}
	}
	r.storage.meet.Store(&meet)
}

func (r *trial) run(n int, ending string) {
	r.t.Helper()
	r.row.Tried++
	r.before = r.sim.RefreshTokens()
	defer r.storage.settle() // what a kill leaves behind ends without an effect
	r.spoil(n)
	a := r.flow.when(r.stage)
	if a.status != http.StatusOK && a.status != http.StatusInternalServerError && !a.gone {
		r.blame(&r.row.Failed, "answered %d: %s", a.status, a.message)
	}
	r.check(a)
	none := func(storageCall) mood { return mood{} }
	r.storage.meet.Store(&none)
	r.follow(ending)
	if r.lost(a, ending) {
		return
	}
	if a.status == http.StatusOK {
		r.agree("it was done")
	}
	r.repeat("the flow")
	r.restart()
	r.repeat("the flow after a restart")
	r.live()
}

// follow has time pass, or the process end.
func (r *trial) follow(ending string) {
	r.t.Helper()
	if ending == "a kill" {
		r.storage.dead.Store(true)
		r.engine.storage = r.storage.Storage
		r.storage = r.moody()
		r.restart()
		return
	}
	r.storage.settle()
	if ending == "readers alone" {
		time.Sleep(6 * time.Second)
		for _, name := range r.names() {
			r.reader(name)
		}
		return
	}
	for range 5 {
		time.Sleep(time.Minute)
		if err := r.tick(); err != nil {
			r.blame(&r.row.Failed, "a tick: %s", err)
		}
	}
	for _, name := range r.names() {
		if status := r.read("status/" + name).Data; status["storage_error"] != nil {
			r.blame(&r.row.Failed, "%s is not healed by ticks: %s", name, status["storage_error"])
		}
	}
}

// names are the credentials that there are.
func (r *trial) names() []string {
	r.t.Helper()
	resp, _, _ := r.request(logical.ListOperation, "config/", nil)
	names, _ := resp.Data["keys"].([]string)
	return names
}

// lost is whether a refresh token is lost, as it may be in a few cases, so that there is
// nothing that the flow could be repeated with.
func (r *trial) lost(a answer, ending string) bool {
	r.t.Helper()
	stored := r.stored()
	isLost := slices.ContainsFunc(r.sim.RefreshTokens(), func(token string) bool {
		return !slices.Contains(r.before, token) && !strings.Contains(stored, token)
	})
	switch told := strings.Contains(a.message, "what it gave is lost: get another one"); {
	case !isLost:
		return false
	case told && a.status == http.StatusInternalServerError:
		r.excused = toldExcuse
		for _, token := range []string{refreshToken, anotherToken} {
			r.sim.AddRefreshToken("link-streaming", token) // as the vendor's page gives another
		}
		return false
	case ending == "a kill" && r.fault.goesOn() && a.status != http.StatusOK:
		r.excused = killedExcuse
		r.rewrite()
		return true
	}
	r.blame(&r.row.Lost, "what the vendor gave is not in storage (answered %d: %s)", a.status, a.message)
	return true
}

// rewrite has the operators be told that their credentials are of no use any more, and
// write others.
func (r *trial) rewrite() {
	r.t.Helper()
	time.Sleep(25 * time.Hour)
	told := 0
	for _, name := range r.names() {
		a := r.ask(logical.ReadOperation, "creds/"+name, nil)
		if a.status == http.StatusBadRequest && strings.Contains(a.message, "write a new one to config/") {
			told++
		}
	}
	if told == 0 {
		r.blame(&r.row.Lost, "nobody is told that a credential is of no use any more")
	}
	if slices.Contains(r.names(), "prod") {
		r.sim.AddRefreshToken("link-streaming", "one-more")
		r.write("config/kensho/prod", map[string]any{"refresh_token": "one-more"})
		r.reader("prod")
	}
}

// repeat repeats the flow, which nothing keeps from succeeding any more.
func (r *trial) repeat(what string) {
	r.t.Helper()
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
	r.t.Helper()
	if complaint := r.flow.complaint(r.stage); complaint != "" {
		r.blame(&r.row.Failed, "%s, and then %s", after, complaint)
	}
}

// check checks a token that was served.
func (r *trial) check(a answer) {
	r.t.Helper()
	token := a.token()
	switch {
	case token == "":
	case !r.sim.Accepts(token):
		r.blame(&r.row.Dead, "a token was served that no vendor takes")
	case !strings.Contains(r.stored(), token):
		r.blame(&r.row.Failed, "a token was served that storage does not know")
	}
}

// live exchanges each credential once more.
func (r *trial) live() {
	r.t.Helper()
	time.Sleep(25 * time.Hour) // by then every token has died
	for _, name := range r.names() {
		r.reader(name)
	}
}

// reader reads a token that there is no reason not to get.
func (r *trial) reader(name string) {
	r.t.Helper()
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
