package rotation_test

import (
	"fmt"
	"net/http"
	"strings"
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

// storageFaults are the ways in which a storage call of a rotation fails.
var storageFaults = map[string]engine.Fault{
	"refuses":                        {Err: engine.ErrStorage},
	"succeeds and reports a failure": {Err: engine.ErrStorage, Done: true},
	"is slow":                        {Wait: 20 * time.Second},
	"hangs":                          {Wait: 5 * time.Minute},
	"succeeds and hangs":             {Wait: 5 * time.Minute, Done: true},
}

func TestGuarantee3StorageThatFailsLosesNoSecret(t *testing.T) {
	eachQuickKind(t, func(t *testing.T, kind string) {
		for name, fault := range storageFaults {
			for _, isLasting := range []bool{false, true} {
				n := 0
				for failedStorage(t, kind, fmt.Sprintf("%s, lasting: %t", name, isLasting), fault, isLasting, n) {
					n++
				}
				require.GreaterOrEqual(t, n, 3, "storage calls of a rotation")
			}
		}
	})
}

// failedStorage makes the nth storage call of a rotation fail, and all later ones for ten minutes if the fault lasts. It
// reports whether there was one.
func failedStorage(t *testing.T, kind, where string, fault engine.Fault, isLasting bool, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, shortGrace)
		where = fmt.Sprintf("%s, at call %d", where, n)
		token := engine.TokenOf(e.Creds(a.name))
		storage := e.BreakStorage()
		var count atomic.Int64
		meet := func(c engine.StorageCall) engine.Fault {
			if c.Key == "probe" {
				return engine.Fault{}
			}
			i := int(count.Add(1)) - 1
			if i == n || isLasting && i > n {
				isMet = true
				return fault
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&meet)
		_, status, message := a.tryRotate(nil)
		assert.Contains(t, []int{http.StatusOK, http.StatusInternalServerError, http.StatusServiceUnavailable}, status, "%s: %s", where, message)
		for range 10 {
			time.Sleep(time.Minute)
			_ = e.Tick() // may report the failure of storage
		}
		storage.OnCall.Store(nil)
		storage.Settle()
		assert.Equal(t, token, engine.TokenOf(e.Creds(a.name)), "%s: the cached token stays in use", where)
		a.Pass(2 * time.Hour) // the longest pause
		assert.NotContains(t, a.status(), "pending_since", where)
		a.rotate(nil)
		a.assertSettledAfterGrace()
	})
	return isMet
}

func TestAnOutageDuringARotationLosesNothing(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		for n := 0; ; n++ {
			if !outageAt(t, kind, n) {
				require.GreaterOrEqual(t, n, 2, "requests of a rotation")
				return
			}
		}
	})
}

// outageAt makes the vendor unavailable from the nth request of a rotation on, for an hour. It reports whether there
// was one.
func outageAt(t *testing.T, kind string, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, shortGrace)
		token := engine.TokenOf(e.Creds(a.name))
		var count atomic.Int64
		e.Sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			if int(count.Add(1))-1 < n {
				return nil
			}
			isMet = true
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}})
		_, status, message := a.tryRotate(nil)
		if !isMet {
			return
		}
		assert.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable}, status, "request %d: %s", n, message)
		assert.Equal(t, token, engine.TokenOf(e.Creds(a.name)), "request %d: the cached token stays in use", n)
		e.Pass(30 * time.Minute)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.NotContains(t, a.status(), "pending_since", "request %d", n)
		a.rotate(nil)
		a.assertSettledAfterGrace()
	})
	return isMet
}

func TestALostAnswerLeavesNothingAtTheVendor(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		if kind == "gitlab-token" {
			t.Run("the only secret is lost", lostForGood)
			return
		}
		for n := 0; ; n++ {
			isMet := false
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				a := newAccount(e, kind, shortGrace)
				var count atomic.Int64
				e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(*http.Request) bool {
					is := int(count.Add(1))-1 == n
					isMet = isMet || is
					return is
				}})
				_, _, _ = a.tryRotate(nil)
				e.Creds(a.name)
				e.Pass(2 * time.Hour)
				e.Sim.Behave(vendorsim.Conduct{})
				assert.LessOrEqual(t, a.live(), 2*a.each(), "request %d: at most one secret to clean up", n)
				a.assertSettledAfterGrace()
			})
			if !isMet {
				require.GreaterOrEqual(t, n, 2, "requests of a rotation")
				return
			}
		}
	})
}

// GitLab has replaced the token, and nobody knows the new one. The engine must say so, and must not use the former one
// to rotate again, which would revoke all tokens of the family.
func lostForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "gitlab-token", nil)
		e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(r *http.Request) bool { return r.URL.Path == "/api/v4/personal_access_tokens/self/rotate" }})
		_, status, _ := a.tryRotate(nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		e.Pass(2 * time.Hour)
		rotation := a.status()
		assert.Contains(t, rotation["last_error"], "its answer was lost; write a new secret to the credential")
		assert.Equal(t, "degraded", e.Read("status/" + a.name).Data["state"])
		assert.Equal(t, 1, a.live(), "the family is not revoked")

		_, fields := e.Sim.AddRotating("gitlab-token", "another")
		e.Write(a.path(), fields)
		e.Pass(2 * time.Hour)
		assert.NotContains(t, a.status(), "last_error", "a new secret ends the failure")
		_, status, message := e.Request(logical.ReadOperation, "creds/"+a.name, nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

// A vendor may list a secret minutes after it has it, as Graph and Google do. (The answer to the request was lost.)
func TestASecretThatTheVendorListsLateIsRemoved(t *testing.T) {
	for kind, path := range map[string]string{entra: "/addPassword", "google": "/keys:upload", "okta/private_key": "/jwks"} {
		t.Run(kind, func(t *testing.T) { listedLate(t, kind, path) })
	}
}

func listedLate(t *testing.T, kind, path string) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, nil)
		is := func(method string) func(*http.Request) bool {
			return func(r *http.Request) bool { return r.Method == method && strings.HasSuffix(r.URL.Path, path) }
		}
		e.Sim.Behave(vendorsim.Conduct{Propagation: 5 * time.Minute, LostAnswers: is(http.MethodPost)})
		_, status, _ := a.tryRotate(nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		nothing := func(r *http.Request) http.HandlerFunc {
			if is(http.MethodGet)(r) {
				return vendorsim.Answer(http.StatusOK, `{"keys":[]}`) // of Okta
			}
			return nil
		}
		e.Sim.Behave(vendorsim.Conduct{Propagation: 5 * time.Minute, Fault: nothing})
		e.Pass(10 * time.Minute)
		assert.Equal(t, 3, a.live(), "the former secret, the lost one, which was not listed yet, and the new one")
		e.Sim.Behave(vendorsim.Conduct{Propagation: 5 * time.Minute})
		e.Pass(10 * time.Minute)
		assert.Equal(t, 2, a.live())
		e.Sim.Behave(vendorsim.Conduct{})
		a.assertSettledAfterGrace()
	})
}

func TestARotationWhoseAnswerWasLostIsRepeated(t *testing.T) {
	for _, data := range []map[string]any{nil, {"rotation_grace": "2h"}} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, entra, nil)
			before := a.fields()["client_secret"]
			e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/addPassword") }})
			_, status, _ := a.tryRotate(data)
			assert.Equal(t, http.StatusServiceUnavailable, status)
			e.Sim.Behave(vendorsim.Conduct{})
			e.Pass(3 * time.Minute)
			assert.NotEqual(t, before, a.fields()["client_secret"], "as the operator has asked for it")
			assert.Equal(t, "request", a.status()["last_rotation_by"])
			if data != nil {
				until, err := time.Parse(time.RFC3339, a.status()["former_until"].(string))
				require.NoError(t, err)
				assert.InDelta(t, 2*time.Hour, time.Until(until), float64(5*time.Minute), "and for how long the former secret stays")
			}
		})
	}
}
