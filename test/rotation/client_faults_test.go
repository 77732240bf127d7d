package rotation_test

import (
	"encoding/json"
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

// clientKinds are the kinds of clients: the vendor keeps the former secret, or ends it at once.
var clientKinds = []string{entra, "auth0/client_secret"}

// eachClientKind calls f with each kind of clients, in a subtest.
func eachClientKind(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range clientKinds {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

// clientFields returns the stored fields of the client.
func (a account) clientFields() map[string]any {
	a.T.Helper()
	var entry struct{ Fields map[string]any }
	require.NoError(a.T, json.Unmarshal([]byte(a.Dump()["client/portal"]), &entry))
	return entry.Fields
}

// clientTokens returns the tokens of the client's credentials. Each of them must be readable.
func (a account) clientTokens(where string) map[string]string {
	a.T.Helper()
	tokens := map[string]string{}
	for _, name := range credentialsOfClient {
		resp, status, message := a.Request(logical.ReadOperation, "creds/"+name, nil)
		if assert.Equal(a.T, http.StatusOK, status, "%s: %s: %s", where, name, message) {
			tokens[name] = engine.TokenOf(resp)
		}
	}
	return tokens
}

// assertClientSettledAfterGrace checks that, once the former secret is removed, the vendor has only the stored secret of
// the client, and that each credential works with it.
func (a account) assertClientSettledAfterGrace(where string) {
	a.T.Helper()
	a.Pass(2 * time.Hour) // the tokens expire
	a.clientTokens(where) // the present secret works, so the former one is not needed
	a.Pass(time.Hour + 2*time.Minute)
	rotation := a.clientRotation()
	assert.NotContains(a.T, rotation, "pending_since", where)
	assert.NotContains(a.T, rotation, "former_until", where)
	assert.True(a.T, a.accepts(a.clientFields()), "%s: the stored secret", where)
	assert.Equal(a.T, 1, a.live(), "%s: secrets at the vendor", where)
	a.Restart()
	a.clientTokens(where)
}

func TestGuarantee3StorageThatFailsLosesNoSecretOfAClient(t *testing.T) {
	eachClientKind(t, func(t *testing.T, kind string) {
		for name, fault := range storageFaults {
			for _, isLasting := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, lasting=%t", name, isLasting), func(t *testing.T) {
					n := 0
					for failedClientStorage(t, kind, fault, isLasting, n) {
						n++
					}
					require.GreaterOrEqual(t, n, 3, "storage calls of a rotation")
				})
			}
		}
	})
}

// failedClientStorage makes the nth storage call of a client's rotation fail, and all later ones for ten minutes if the
// fault lasts. It reports whether there was one.
func failedClientStorage(t *testing.T, kind string, fault engine.Fault, isLasting bool, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClientOf(e, kind, shortGrace)
		where := fmt.Sprintf("call %d", n)
		tokens := a.clientTokens(where)
		storage := e.BreakStorage()
		var count atomic.Int64
		var isHit atomic.Bool
		meet := func(c engine.StorageCall) engine.Fault {
			if c.Key == "probe" {
				return engine.Fault{}
			}
			i := int(count.Add(1)) - 1
			if i == n || isLasting && i > n {
				isHit.Store(true)
				return fault
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&meet)
		_, status, message := a.Request(logical.UpdateOperation, "clients/portal/rotate", nil)
		assert.Contains(t, []int{http.StatusOK, http.StatusInternalServerError, http.StatusServiceUnavailable}, status, "%s: %s", where, message)
		if isMet = isHit.Load(); !isMet { // later calls are not those of the rotation
			return
		}
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
			time.Sleep(time.Minute)
			_ = e.Tick() // may report the failure of storage
		}
		storage.OnCall.Store(nil)
		storage.Settle()
		assert.Equal(t, tokens, a.clientTokens(where), "%s: the cached tokens stay in use", where)
		a.Pass(2 * time.Hour) // the longest pause
		assert.NotContains(t, a.clientRotation(), "pending_since", where)
		a.clientTokens(where)
		a.rotateClient(nil)
		a.assertClientSettledAfterGrace(where)
	})
	return isMet
}

func TestAnOutageDuringARotationOfAClientLosesNothing(t *testing.T) {
	eachClientKind(t, func(t *testing.T, kind string) {
		n := 0
		for clientOutageAt(t, kind, n) {
			n++
		}
		require.GreaterOrEqual(t, n, 2, "requests of a rotation")
	})
}

// clientOutageAt makes the vendor unavailable from the nth request of a client's rotation on, for half an hour. It
// reports whether there was one.
func clientOutageAt(t *testing.T, kind string, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClientOf(e, kind, shortGrace)
		where := fmt.Sprintf("request %d", n)
		tokens := a.clientTokens(where)
		var count atomic.Int64
		e.Sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			if int(count.Add(1))-1 < n {
				return nil
			}
			return vendorsim.Answer(http.StatusServiceUnavailable, "")
		}})
		_, status, message := a.Request(logical.UpdateOperation, "clients/portal/rotate", nil)
		if isMet = int(count.Load()) > n; !isMet {
			return
		}
		assert.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable}, status, "%s: %s", where, message)
		assert.Equal(t, tokens, a.clientTokens(where), "%s: the cached tokens stay in use", where)
		e.Pass(30 * time.Minute)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.NotContains(t, a.clientRotation(), "pending_since", where)
		a.clientTokens(where)
		a.rotateClient(nil)
		a.assertClientSettledAfterGrace(where)
	})
	return isMet
}

func TestALostAnswerToARotationOfAClientLeavesNothingAtTheVendor(t *testing.T) {
	eachClientKind(t, func(t *testing.T, kind string) {
		n := 0
		for clientAnswerLost(t, kind, n) {
			n++
		}
		require.GreaterOrEqual(t, n, 2, "requests of a rotation")
	})
}

// clientAnswerLost loses the answer to the nth request of a client's rotation. It reports whether there was one.
func clientAnswerLost(t *testing.T, kind string, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClientOf(e, kind, shortGrace)
		where := fmt.Sprintf("request %d", n)
		tokens := a.clientTokens(where)
		first := a.clientFields()["client_secret"]
		var count atomic.Int64
		e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(*http.Request) bool { return int(count.Add(1))-1 == n }})
		_, _, _ = a.Request(logical.UpdateOperation, "clients/portal/rotate", nil) // may report that the vendor is unavailable
		if isMet = int(count.Load()) > n; !isMet {
			return
		}
		e.Sim.Behave(vendorsim.Conduct{})
		assert.Equal(t, tokens, a.clientTokens(where), "%s: the cached tokens stay in use", where)
		e.Pass(2 * time.Hour)
		assert.NotContains(t, a.clientRotation(), "pending_since", where)
		assert.LessOrEqual(t, a.live(), 2, "%s: at most one secret to clean up", where)
		if a.clientRotation()["last_vault_rotation"] != nil {
			assert.NotEqual(t, first, a.clientFields()["client_secret"], where)
		}
		a.assertClientSettledAfterGrace(where)
	})
	return isMet
}
