package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
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
	engine.Fault

	// writes is whether it is for writes alone: a read that fails has no effect that could
	// be there all the same. lasting is whether all calls that follow go the same way, until
	// storage is mended.
	writes, lasting bool
}

var storageFaults = []storageFault{
	{name: "refuses", Fault: engine.Fault{Err: engine.ErrStorage}},
	{name: "does it and says that it failed", Fault: engine.Fault{Err: engine.ErrStorage, Done: true}, writes: true},
	{name: "is slow", Fault: engine.Fault{Wait: 5 * time.Second}},
	{name: "hangs", Fault: engine.Fault{Wait: hung}},
	{name: "does it and hangs", Fault: engine.Fault{Wait: hung, Done: true}, writes: true},
	{name: "refuses until it is mended", Fault: engine.Fault{Err: engine.ErrStorage}, lasting: true},
	{name: "does it and says that it failed until it is mended", Fault: engine.Fault{Err: engine.ErrStorage, Done: true}, writes: true, lasting: true},
	{name: "hangs until it is mended", Fault: engine.Fault{Wait: hung}, lasting: true},
}

// goesOn is whether the fault may still be there when the client has been answered.
func (f storageFault) goesOn() bool { return f.lasting || f.Wait > clientPatience }

// endings are what follows on a request that met with a fault, once storage is mended: one
// of them in turn in the short form of the suite, each of them in the long one.
var endings = []string{"ticks alone", "readers alone", "a kill"}

// A stage is an engine that a flow is about to run on.
type stage struct {
	*engine.Engine
	storage *engine.FaultyStorage

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

// lent is for how long a token is leased.
func (a answer) lent() time.Duration {
	if a.Response == nil || a.Secret == nil {
		return 0
	}
	return a.Secret.TTL
}

// ask sends the request of a client who has Vault's patience.
func (s *stage) ask(op logical.Operation, path string, data map[string]any) answer {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), clientPatience)
	defer cancel()
	resp, status, message := s.RequestWithin(ctx, op, path, data)
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
	s.T.Helper()
	asIs := *s.Engine
	asIs.Storage = s.storage.Storage
	return fmt.Sprint(asIs.Dump())
}

// TestFaultStorage fails every storage call of every flow in turn, and repeats the flow
// after each.
func TestFaultStorage(t *testing.T) {
	var mu sync.Mutex
	total := newStorageRows()
	t.Run("flows", func(t *testing.T) {
		for name, flow := range storageFlows {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				rows := flow.fail(t)
				mu.Lock()
				defer mu.Unlock()
				total.add(rows)
			})
		}
	})
	for _, fault := range storageFaults {
		row := total[fault.name]
		if row.excused > 0 {
			row.Note = fmt.Sprintf("and %d refresh tokens went with a process that was killed before storage took them", row.excused)
		}
		tally.Record(t, row.Row)
	}
}

// storageRows count what came of each fault, by its name.
type storageRows map[string]*storageRow

type storageRow struct {
	tally.Row
	excused int // refresh tokens that may be lost
}

func newStorageRows() storageRows {
	rows := storageRows{}
	for _, fault := range storageFaults {
		rows[fault.name] = &storageRow{Row: tally.Row{Fault: "storage: " + fault.name}}
	}
	return rows
}

func (r storageRows) add(other storageRows) {
	for name, row := range other {
		sum := r[name]
		sum.Tried += row.Tried
		sum.Dead += row.Dead
		sum.Lost += row.Lost
		sum.Failed += row.Failed
		sum.Leaks += row.Leaks
		sum.excused += row.excused
	}
}

// fail fails each storage call of the flow in each way.
func (f storageFlow) fail(t *testing.T) storageRows {
	t.Helper()
	rows := newStorageRows()
	calls := f.calls(t)
	assert.Equal(t, f.cached, len(calls) == 0, "%v", calls)
	for n, call := range calls {
		for i, fault := range storageFaults {
			if fault.writes && !call.Writes() || !tally.IsSampled(n+i) {
				continue
			}
			for j := range tally.Times(1, len(endings)) {
				ending := endings[(n+i+j)%len(endings)]
				synctest.Test(t, func(t *testing.T) {
					row := rows[fault.name]
					trial := &trial{
						stage: f.stage(t), flow: f, fault: fault, row: &row.Row, call: call,
						where: fmt.Sprintf("call %d (%s %s) %s, then %s", n+1, call.Op, call.Key, fault.name, ending),
					}
					trial.run(n, ending)
					if trial.excused {
						row.excused++
					}
				})
			}
		}
	}
	return rows
}

// stage makes what the flow runs on.
func (f storageFlow) stage(t *testing.T) *stage {
	t.Helper()
	s := &stage{Engine: engine.New(t)}
	f.given(s)
	s.storage = s.BreakStorage()
	return s
}

// calls are those of the flow if nothing goes wrong.
func (f storageFlow) calls(t *testing.T) []engine.StorageCall {
	t.Helper()
	var calls []engine.StorageCall
	synctest.Test(t, func(t *testing.T) {
		s := f.stage(t)
		a := f.when(s)
		calls = s.storage.Calls()
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
