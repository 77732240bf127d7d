package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// Guarantees 3 and 16: after a panic the vendor is left alone for 5 minutes, whoever asks, and
// the refresh token that it gave is stored with the next attempt.
func TestGuarantee16APanicIsNotRepeatedWithEachRead(t *testing.T) {
	for name, ended := range map[string]func(*engine){
		"by the pause": func(*engine) { time.Sleep(5*time.Minute + time.Second) },
		"by a refresh": func(e *engine) { e.write("refresh/prod", nil) },
		"by a write":   func(e *engine) { e.write("config/kensho/prod", map[string]any{"description": "x"}) },
		"in the background": func(e *engine) {
			e.pass(7 * time.Minute)
			assert.Equal(e.t, "0.0", e.metrics()[`tokenbroker_credential_unusable{name="prod"}`])
		},
		"by the engine's ending": func(e *engine) { e.clean(); e.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, storage := newRotatingEngine(t)
				until(1, 0, 11)
				storage.meet.Store(panics("state/prod/"))
				calls := e.exchanges()
				for range 50 {
					status, message := e.refused("creds/prod")
					assert.Equal(t, http.StatusInternalServerError, status)
					assert.Equal(t, "the engine failed; the server's log has the reason", message)
				}
				assert.Equal(t, calls+1, e.exchanges())
				assert.Equal(t, "1.0", e.metrics()[`tokenbroker_credential_unusable{name="prod"}`])
				e.pass(12 * time.Minute) // in which it is tried again
				assert.Equal(t, calls+1, e.exchanges(), "what it gave is to be stored first")
				storage.meet.Store(nil)
				ended(e)
				e.creds("prod")
				assert.Equal(t, "ok", e.read("status/prod").Data["state"])
				e.restart()
				until(3, 0, 11)
				e.creds("prod")
			})
		})
	}
}

func TestGuarantee16APanicIsNotRepeatedWithEachReadOfADedicatedRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.creds("mine")
		storage := e.moody()
		storage.meet.Store(panics("lease/"))
		calls := e.exchanges()
		for range 20 {
			e.refused("creds/mine")
		}
		assert.Equal(t, calls+1, e.exchanges())
		storage.meet.Store(nil)
		e.write("refresh/api", nil)
		e.creds("mine")
	})
}
