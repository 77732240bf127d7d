package rotation_test

import (
	"fmt"
	"net/http"
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

// A rotation is killed at each of its storage writes, before and after the write, and at each request to the vendor,
// before and after the vendor has acted. (Guarantees 3 and 10.)
func TestGuarantee10AKilledRotationIsCompleted(t *testing.T) {
	eachQuickKind(t, func(t *testing.T, kind string) {
		points := 0
		for n := 0; ; n++ {
			killed := false
			for _, isDone := range []bool{false, true} {
				killed = killedAtWrite(t, kind, n, isDone) || killed
			}
			if !killed {
				break
			}
			points++
		}
		require.GreaterOrEqual(t, points, 3, "writes of a rotation")
		requests := 0
		for n := 0; ; n++ {
			killed := false
			for _, isDone := range []bool{false, true} {
				killed = killedAtRequest(t, kind, n, isDone) || killed
			}
			if !killed {
				break
			}
			requests++
		}
		require.GreaterOrEqual(t, requests, 2, "requests of a rotation")
	})
}

// killedAtWrite kills the engine at the nth write of a rotation, and reports whether there was one.
func killedAtWrite(t *testing.T, kind string, n int, isDone bool) (killed bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, shortGrace)
		storage := e.BreakStorage()
		e.Restart()
		var count atomic.Int64
		meet := func(c engine.StorageCall) engine.Fault {
			if !c.Writes() || c.Key == "probe" || int(count.Add(1)) != n+1 {
				return engine.Fault{}
			}
			killed = true
			if !isDone {
				storage.Killed.Store(true)
			}
			return engine.Fault{Done: true, Err: engine.ErrStorage, Wait: time.Hour} // the answer never comes
		}
		storage.OnCall.Store(&meet)
		end(a, storage, fmt.Sprintf("write %d, done: %t", n, isDone), func() bool { return kind == "gitlab-token" && n == 1 && !isDone })
	})
	return killed
}

// killedAtRequest kills the engine at the nth request of a rotation, and reports whether there was one.
func killedAtRequest(t *testing.T, kind string, n int, isDone bool) (killed bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, shortGrace)
		storage := e.BreakStorage()
		e.Restart()
		var count atomic.Int64
		var isCreate bool
		meet := func(r *http.Request) bool {
			if int(count.Add(1)) != n+1 {
				return false
			}
			killed, isCreate = true, r.URL.Path == "/api/v4/personal_access_tokens/self/rotate"
			storage.Killed.Store(true)
			return true
		}
		c := vendorsim.Conduct{LostAnswers: meet}
		if !isDone {
			c = vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
				if !meet(r) {
					return nil
				}
				return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
			}}
		}
		e.Sim.Behave(c)
		end(a, storage, fmt.Sprintf("request %d, done: %t", n, isDone), func() bool { return isDone && isCreate })
	})
	return killed
}

// end begins a rotation that is killed, starts the engine again, and checks that nothing is lost. isLost is whether only
// the lost answer has the secret: where GitLab ends the former one and issues the new one itself, a kill between its
// answer and the write cannot be made good.
func end(a account, storage *engine.FaultyStorage, where string, isLost func() bool) {
	a.T.Helper()
	rotated := make(chan struct{})
	old := a.Backend
	go func() {
		defer close(rotated)
		_, _ = old.HandleRequest(a.T.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: a.path() + "/rotate", Storage: storage, MountPoint: engine.MountPoint})
	}()
	synctest.Wait()
	time.Sleep(30 * time.Second) // a request may still run into its timeout
	a.Storage = storage.Storage
	a.Sim.Behave(vendorsim.Conduct{})
	a.Restart()
	_, status, message := a.Request(logical.ReadOperation, "creds/"+a.name, nil)
	assert.Equal(a.T, http.StatusOK, status, "%s: %s", where, message)
	if isLost() {
		a.Pass(time.Hour)
		assert.Contains(a.T, a.status()["last_error"], "its answer was lost; write a new secret", where)
		storage.Killed.Store(true)
		<-rotated
		return
	}
	a.Pass(10 * time.Minute)
	assert.LessOrEqual(a.T, a.live(), 2*a.each(), "%s: at most one secret to clean up", where)
	a.assertSettledAfterGrace()
	storage.Killed.Store(true)
	<-rotated
}
