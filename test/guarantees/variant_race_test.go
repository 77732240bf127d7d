package guarantees_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// returning makes the vendor answer each request with one token.
func returning(token string, latency time.Duration) vendorsim.Conduct {
	return vendorsim.Conduct{Latency: latency, Fault: vendorsim.Always(vendorsim.Answer(http.StatusOK, `{"access_token":"`+token+`","token_type":"Bearer","expires_in":3600}`))}
}

func TestGuarantee14OneTokenForTwoReadersAtOnceIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.BreakStorage().Stall.Store(int64(time.Second)) // so that neither is stored when the other is checked
		e.Sim.Behave(returning("one-token-for-all-of-them", time.Second))
		var both sync.WaitGroup
		var served [2]bool
		for i, entity := range []string{"1", "2"} {
			both.Go(func() {
				_, status, _ := e.as(entity, "creds/me")
				served[i] = status == http.StatusOK
			})
		}
		both.Wait()
		assert.False(t, served[0] && served[1])
	})
}

func TestGuarantee14TheTokenOfTheCredentialIsNotForAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		e.Sim.Behave(returning(e.Creds("service").Data["access_token"].(string), 0))
		_, status, message := e.as("1", "creds/me")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "issued for another reader as well")
	})
}

// Guarantee 15: a credential that is deleted while a reader begins leaves nothing.
func TestGuarantee15ADeletionDuringAFirstReadLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		slow := func(call engine.StorageCall) engine.Fault {
			if call.Op == "put" && strings.HasPrefix(call.Key, "variant/") {
				return engine.Fault{Wait: time.Second}
			}
			return engine.Fault{}
		}
		e.BreakStorage().OnCall.Store(&slow)
		var read sync.WaitGroup
		read.Go(func() {
			_, status, message := e.as("1", "creds/me")
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "no credential named")
		})
		time.Sleep(500 * time.Millisecond)
		for _, path := range []string{"roles/me", "config/oauth2/service"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		read.Wait()
		assert.Empty(t, e.Dump())
	})
}

// Guarantee 8: a read that begins after a change has returned does not join an exchange from before.
func TestGuarantee8ANewReadJoinsNoOlderExchangeOfAReader(t *testing.T) {
	for name, change := range map[string]func(e *personal){
		"write":   func(e *personal) { e.Write("config/oauth2/service", map[string]any{"max_ttl": "30m", "verify": false}) },
		"refresh": func(e *personal) { e.Write("refresh/service", nil) },
		"drop":    func(e *personal) { e.Write("refresh/service", engine.Drop) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newPersonal(t)
				e.Sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
				var reads sync.WaitGroup
				var older, newer string
				reads.Go(func() { older, _, _ = e.as("1", "creds/me") })
				time.Sleep(time.Second)
				change(e)
				before := e.Exchanges()
				reads.Go(func() { newer = e.mine("1") })
				reads.Wait()
				assert.NotEmpty(t, older)
				if name == "write" { // it does not wait for the exchange, whose token is not served
					assert.Greater(t, e.Exchanges(), before)
					assert.Equal(t, older, newer)
				} else {
					assert.NotEqual(t, older, newer)
				}
			})
		})
	}
}

// Guarantee 15: a role whose scope is the credential's own shares the token of one that has none.
func TestRolesWithTheCredentialsScopeShareAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowing(t)
		e.Write("roles/one", map[string]any{"config": "api", "audience": billing})
		e.Write("roles/other", map[string]any{"config": "api", "audience": billing, "scope": "write,read"})
		assert.Equal(t, e.Creds("one").Data["access_token"], e.Creds("other").Data["access_token"])
	})
}
