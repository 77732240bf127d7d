package rotation_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestARotationIsReportedWithWhoAskedForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.UpdateOperation, Path: a.path() + "/rotate", Storage: e.Storage, MountPoint: engine.MountPoint, DisplayName: "userpass-alice",
		})
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, "userpass-alice", a.status()["last_rotation_by"])
		assert.Equal(t, []map[string]any{{
			"operation": "credential-rotated", "modified": "true", "path": a.path(), "data_path": a.path(), "name": a.name, "vendor": "entra", "by": "userpass-alice",
		}}, a.events("tokenbroker/credential-rotated"))
		assert.Contains(t, metricsOf(e), `tokenbroker_rotations_total{result="success",vendor="entra"} 1`)
		assert.Contains(t, e.Outside.Text(), "the secret is rotated")
	})
}

// events returns the metadata of the events of a kind.
func (a account) events(kind string) []map[string]any {
	a.T.Helper()
	var all []map[string]any
	for _, event := range a.Events() {
		if event.Kind == kind {
			all = append(all, event.Metadata)
		}
	}
	return all
}

func metricsOf(e *engine.Engine) string {
	e.T.Helper()
	return e.MetricsText()
}

// forbidden is the answer of Graph to who lacks a permission.
var forbidden = vendorsim.Answer(http.StatusForbidden, `{"error": {"code": "Authorization_RequestDenied", "message": "Insufficient privileges to complete the operation."}}`)

func TestThreeFailuresDegradeTheCredentialLongBeforeItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		e.Pass(30*day - time.Minute)
		withoutPermission := vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Host != "graph.microsoft.com" {
				return nil
			}
			return forbidden
		}}
		e.Sim.Behave(withoutPermission)
		e.Pass(9 * time.Minute)
		assert.Equal(t, "ok", e.Read("status/" + a.name).Data["state"])
		e.Pass(4 * time.Minute)
		status := e.Read("status/" + a.name).Data
		assert.Equal(t, "degraded", status["state"])
		rotation := a.status()
		assert.Equal(t, 3, rotation["consecutive_failures"], "after 0, 5 and 10 minutes, as the vendor has refused it")
		assert.Contains(t, rotation["last_error"], "graph.microsoft.com: 403 Forbidden: ")
		assert.Len(t, a.events("tokenbroker/rotation-failed"), 3)
		assert.Contains(t, metricsOf(e), `tokenbroker_rotation_failures{name="entra-client_secret",vendor="entra"} 3`)
		e.Creds(a.name)

		e.Sim.Behave(vendorsim.Conduct{})
		a.rotate(nil)
		assert.Equal(t, "ok", e.Read("status/" + a.name).Data["state"])
		assert.NotContains(t, a.status(), "last_error")
	})
}

func TestRequestsThatFailDoNotDegradeACredentialThatDoesNotRotateByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Host != "graph.microsoft.com" {
				return nil
			}
			return forbidden
		}})
		for range 3 {
			_, status, _ := a.tryRotate(nil)
			assert.Equal(t, http.StatusBadRequest, status)
		}
		assert.Equal(t, "ok", e.Read("status/" + a.name).Data["state"])
		assert.NotContains(t, a.status(), "last_error")
		assert.Len(t, a.events("tokenbroker/rotation-failed"), 3)
	})
}

func TestFailedAttemptsBackOffToAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		e.Pass(30*day - time.Minute)
		e.Sim.Behave(engine.Down())
		e.Pass(day)
		failures, _ := a.status()["consecutive_failures"].(int)
		assert.InDelta(t, 29, failures, 2, "six pauses from a minute on, then one an hour")
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(time.Hour + time.Minute)
		assert.NotContains(t, a.status(), "last_error")
	})
}
