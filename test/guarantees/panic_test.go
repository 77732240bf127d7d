package guarantees_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// Guarantees 3 and 16: after a panic the engine makes no exchange for 5 minutes, and the next
// attempt stores the refresh token that the vendor had answered.
func TestGuarantee16PanicIsNotRepeatedByReads(t *testing.T) {
	for name, recovers := range map[string]func(*engine.Engine){
		"after the pause": func(*engine.Engine) { time.Sleep(5*time.Minute + time.Second) },
		"by a refresh":    func(e *engine.Engine) { e.Write("refresh/prod", nil) },
		"by a write":      func(e *engine.Engine) { e.Write("config/kensho/prod", map[string]any{"description": "x"}) },
		"in the background": func(e *engine.Engine) {
			e.Pass(7 * time.Minute)
			assert.Equal(e.T, "0.0", e.Metrics()[`tokenbroker_credential_unusable{name="prod"}`])
		},
		"by an unload": func(e *engine.Engine) { e.Clean(); e.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, storage := engine.NewRotating(t)
				engine.Until(1, 0, 11)
				storage.OnCall.Store(engine.PanicOnWrite("state/prod/"))
				calls := e.Exchanges()
				for range 50 {
					status, message := e.Refused("creds/prod")
					assert.Equal(t, http.StatusInternalServerError, status)
					assert.Equal(t, "internal error; see the server's log", message)
				}
				assert.Equal(t, calls+1, e.Exchanges())
				assert.Equal(t, "1.0", e.Metrics()[`tokenbroker_credential_unusable{name="prod"}`])
				e.Pass(12 * time.Minute) // includes further attempts
				assert.Equal(t, calls+1, e.Exchanges(), "the answered refresh token must be stored first")
				storage.OnCall.Store(nil)
				recovers(e)
				e.Creds("prod")
				assert.Equal(t, "ok", e.Read("status/prod").Data["state"])
				e.Restart()
				engine.Until(3, 0, 11)
				e.Creds("prod")
			})
		})
	}
}

func TestGuarantee16PanicIsNotRepeatedByDedicatedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Creds("mine")
		storage := e.BreakStorage()
		storage.OnCall.Store(engine.PanicOnWrite("lease/"))
		calls := e.Exchanges()
		for range 20 {
			e.Refused("creds/mine")
		}
		assert.Equal(t, calls+1, e.Exchanges())
		storage.OnCall.Store(nil)
		e.Write("refresh/api", nil)
		e.Creds("mine")
	})
}
