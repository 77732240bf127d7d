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

// maxRequestDuration is Vault's default for default_max_request_duration.
const maxRequestDuration = 90 * time.Second

// hangTime is longer than a client, or the engine with its limit of three minutes, waits for
// storage.
const hangTime = 10 * time.Minute

// storageFault is one way in which a storage call fails.
type storageFault struct {
	name string
	engine.Fault

	// writes is whether the fault applies only to writes; it is set for faults that carry the call
	// out. lasting is whether all later calls fail in the same way until storage is restored.
	writes, lasting bool
}

var storageFaults = []storageFault{
	{name: "refuses", Fault: engine.Fault{Err: engine.ErrStorage}},
	{name: "succeeds and reports a failure", Fault: engine.Fault{Err: engine.ErrStorage, Done: true}, writes: true},
	{name: "is slow", Fault: engine.Fault{Wait: 5 * time.Second}},
	{name: "hangs", Fault: engine.Fault{Wait: hangTime}},
	{name: "succeeds and hangs", Fault: engine.Fault{Wait: hangTime, Done: true}, writes: true},
	{name: "refuses until restored", Fault: engine.Fault{Err: engine.ErrStorage}, lasting: true},
	{name: "succeeds and reports a failure until restored", Fault: engine.Fault{Err: engine.ErrStorage, Done: true}, writes: true, lasting: true},
	{name: "hangs until restored", Fault: engine.Fault{Wait: hangTime}, lasting: true},
}

// outlastsRequest reports whether the fault may continue after the client has an answer.
func (f storageFault) outlastsRequest() bool { return f.lasting || f.Wait > maxRequestDuration }

// endings are what happens after the failed request, with storage restored. The short suite runs
// one of them per fault, in turn; the long suite runs all.
var endings = []string{"ticks only", "reads only", "a crash"}

// stage is an engine in the precondition of a flow.
type stage struct {
	*engine.Engine
	storage *engine.FaultyStorage

	older   string            // the valid token before the flow
	lease   *logical.Response // the lease of a dedicated token
	pending any               // the key ID of a pending pair
}

// answer is the result of a request.
type answer struct {
	*logical.Response
	status  int
	message string
	gone    bool // the client's time was up before the answer
}

func (a answer) token() string {
	if a.Response == nil {
		return ""
	}
	token, _ := a.Data["access_token"].(string)
	return token
}

// leaseTTL returns the TTL of the lease, or 0 if there is none.
func (a answer) leaseTTL() time.Duration {
	if a.Response == nil || a.Secret == nil {
		return 0
	}
	return a.Secret.TTL
}

// ask sends a request with Vault's default time limit.
func (s *stage) ask(op logical.Operation, path string, data map[string]any) answer {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), maxRequestDuration)
	defer cancel()
	resp, status, message := s.RequestWithin(ctx, op, path, data)
	return answer{resp, status, message, ctx.Err() != nil}
}

// done returns the answer of an operation that has only an error.
func done(err error) answer {
	if err != nil {
		return answer{status: http.StatusInternalServerError, message: err.Error()}
	}
	return answer{status: http.StatusOK}
}

// stored returns all storage entries as text, bypassing storage faults.
func (s *stage) stored() string {
	s.T.Helper()
	asIs := *s.Engine
	asIs.Storage = s.storage.Storage
	return fmt.Sprint(asIs.Dump())
}

// TestFaultStorage makes each storage call of each flow fail in turn, in each way, and repeats the
// flow after each failure.
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
		if row.mayBeLost > 0 {
			row.Note = fmt.Sprintf("%d refresh tokens were lost in a crash before they could be stored", row.mayBeLost)
		}
		tally.Record(t, row.Row)
	}
}

// storageRows are the results of each fault, by its name.
type storageRows map[string]*storageRow

type storageRow struct {
	tally.Row
	mayBeLost int // refresh tokens that may be lost
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
		sum.Invalid += row.Invalid
		sum.Lost += row.Lost
		sum.Failed += row.Failed
		sum.Leaks += row.Leaks
		sum.mayBeLost += row.mayBeLost
	}
}

// fail makes each storage call of the flow fail in each way.
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
					if trial.mayBeLost {
						row.mayBeLost++
					}
				})
			}
		}
	}
	return rows
}

// stage mounts an engine and sets up the flow's precondition.
func (f storageFlow) stage(t *testing.T) *stage {
	t.Helper()
	s := &stage{Engine: engine.New(t)}
	f.given(s)
	s.storage = s.BreakStorage()
	return s
}

// calls returns the storage calls of the flow without a fault.
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

// complaint returns what is wrong after the flow has succeeded, or "".
func (f storageFlow) complaint(s *stage) string {
	if f.then == nil {
		return ""
	}
	return f.then(s)
}
