package guarantees_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// unsaved lets a person consent while storage does not accept the result, and returns the storage.
func (e *consenting) unsaved() *engine.FaultyStorage {
	e.T.Helper()
	back := e.Sim.Consent(e.begin(), person)
	faulty := &engine.FaultyStorage{Storage: e.Storage}
	e.Storage = faulty
	refuse(faulty, "put", "config/", false)
	status, page := e.open(back)
	require.Equal(e.T, http.StatusServiceUnavailable, status, page)
	return faulty
}

func (e *consenting) delete() int {
	_, status, _ := e.Request(logical.DeleteOperation, "config/oauth2/"+person, nil)
	return status
}

// Guarantees 3 and 15: a bug in one poll ends neither the process, which serves other mounts, nor other requests,
// and what the vendor has answered is stored by the next sweep.
func TestGuarantee3APanicInAPollLosesNothing(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		faulty := &engine.FaultyStorage{Storage: e.Storage}
		e.Storage = faulty
		code := e.device()
		faulty.OnCall.Store(engine.PanicOnWrite("config/"))
		e.Sim.Approve(code, person)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "unsaved", e.consent()["state"])
		require.NoError(t, e.Tick(), "nor does the sweep end")
		faulty.OnCall.Store(nil)
		require.NoError(t, e.Tick())
		assert.Equal(t, "connected", e.consent()["state"])
		e.Creds(person)
	})
	withDevices(t, func(t *testing.T, e *consenting) {
		faulty := &engine.FaultyStorage{Storage: e.Storage}
		e.Storage = faulty
		code := e.device()
		faulty.OnCall.Store(engine.PanicOnWrite("consent/"))
		e.Sim.Deny(code)
		time.Sleep(6 * time.Second)
		faulty.OnCall.Store(nil)
		e.Sim.Approve(e.device(), person)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"], "the next consent is polled")
	})
}

// A deletion that fails leaves a credential with its consent, and one that succeeds leaves nothing.
func TestGuarantee3ADeletionThatFailsKeepsTheResultOfAConsent(t *testing.T) {
	for _, prefix := range []string{"consent/", "config/"} {
		t.Run(prefix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				faulty := e.unsaved()
				refuse(faulty, "delete", prefix, false)
				assert.Equal(t, http.StatusInternalServerError, e.delete())
				faulty.OnCall.Store(nil)
				require.NoError(t, e.Tick())
				assert.Equal(t, "connected", e.consent()["state"])
				e.Creds(person)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		faulty := e.unsaved()
		require.Equal(t, http.StatusOK, e.delete())
		assert.NotContains(t, e.MetricsText(), person)
		faulty.OnCall.Store(nil)
		require.NoError(t, e.Tick())
		engine.AssertStorageEmpty(t, e.Engine)
	})
}

func TestGuarantee10ACrashDuringADeletionLeavesNoConsentWithoutItsCredential(t *testing.T) {
	for writes := range 6 {
		synctest.Test(t, func(t *testing.T) {
			e := newConsenting(t)
			status, page := e.open(e.Sim.Consent(e.begin(), person))
			require.Equal(t, http.StatusOK, status, page)
			e.begin()
			faulty := &engine.FaultyStorage{Storage: e.Storage}
			e.Storage = faulty
			faulty.FailWritesAfter(writes)
			e.delete()
			e.Storage = faulty.Storage
			e.Restart()
			config, _, _ := e.Request(logical.ReadOperation, "config/oauth2/"+person, nil)
			for key := range e.Dump() {
				assert.False(t, config == nil && strings.HasPrefix(key, "consent/"), "%d writes: %s", writes, key)
			}
			require.Equal(t, http.StatusOK, e.delete())
			engine.AssertStorageEmpty(t, e.Engine)
		})
	}
}

// Vault waits for the sweep, which must end although storage does not answer.
func TestGuarantee11TheSweepDoesNotWaitForTheResultOfAConsent(t *testing.T) {
	for _, call := range []engine.StorageCall{{Op: "get", Key: "config/"}, {Op: "put", Key: "config/"}, {Op: "put", Key: "consent/"}} {
		t.Run(call.Op+" "+call.Key, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				faulty := e.unsaved()
				hang := func(c engine.StorageCall) engine.Fault {
					if c.Op == call.Op && strings.HasPrefix(c.Key, call.Key) {
						return engine.Fault{Wait: 2 * time.Minute, IgnoreContext: call.Op == "put"}
					}
					return engine.Fault{}
				}
				faulty.OnCall.Store(&hang)
				for range 3 {
					began := time.Now()
					_ = e.Tick()
					assert.LessOrEqual(t, time.Since(began), 45*time.Second, "30 seconds for tokens, 10 for consents")
				}
				faulty.OnCall.Store(nil)
				time.Sleep(10 * time.Minute)
				require.NoError(t, e.Tick())
				assert.Equal(t, "connected", e.consent()["state"])
				e.Creds(person)
			})
		})
	}
}
