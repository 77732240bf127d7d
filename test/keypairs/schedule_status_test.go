package keypairs_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestTheStatusOfACredentialShowsTheRotationOfItsKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, map[string]any{"rotation_period": "30d"})
		e.Creds("prod")
		first := activeKey(e)
		assert.Equal(t, "ok", e.Read("status/prod").Data["state"])
		e.Metrics() // the series are in the next scrape
		assert.Equal(t, "0.0", e.Metrics()[`tokenbroker_rotations_total{result="failed",vendor=""}`])
		e.Sim.Behave(vendorsim.Conduct{Fault: otherKeyThan(first)})
		e.Pass(30*day + 10*time.Minute) // the attempts pause for 5 minutes, as the vendor rejects the key
		assert.Equal(t, first, activeKey(e))
		status := e.Read("status/prod").Data
		assert.Equal(t, "degraded", status["state"])
		rotation := status["rotation"].(map[string]any)
		assert.Equal(t, 3, rotation["consecutive_failures"])
		assert.Contains(t, rotation["last_error"], "wrong key")
		metrics := e.MetricsText()
		assert.Contains(t, metrics, `tokenbroker_rotation_failures{name="prod",vendor="oauth2"} 3`)

		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.NotEqual(t, first, activeKey(e))
		status = e.Read("status/prod").Data
		assert.Equal(t, "ok", status["state"])
		assert.NotContains(t, status["rotation"], "last_error")
		assert.Contains(t, status["rotation"], "last_vault_rotation")
	})
}

// Given a server that is sealed in each window, an operator learns that nothing rotates.
func TestARotationOfAKeyPairThatMissesItsWindowsIsOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, nil)
		began := time.Now().Truncate(time.Hour) // Saturday, 2000-01-01 00:00
		e.PassReading(6*time.Hour, time.Minute, nodes, func() {})
		e.Write("keypair/prod", map[string]any{"rotation_schedule": "0 3 * * SAT", "rotation_window": "2h"})
		first := activeKey(e)
		overdue := func() string {
			return e.Metrics()[`tokenbroker_rotation_overdue_seconds{name="prod",vendor="oauth2"}`]
		}
		for week := 1; week <= 3; week++ {
			e.PassReading(time.Until(began.AddDate(0, 0, 7*week).Add(2*time.Hour)), 10*time.Minute, nodes, func() {})
			time.Sleep(4 * time.Hour)
			e.Restart()
			e.PassReading(10*time.Minute, time.Minute, nodes, func() {})
		}
		assert.Equal(t, first, activeKey(e))
		rotation := e.Read("status/prod").Data["rotation"].(map[string]any)
		assert.Contains(t, rotation["overdue_since"], "2000-01-08T03:0", "within minutes, as the next key is published a day before")
		seconds, err := strconv.ParseFloat(overdue(), 64)
		require.NoError(t, err)
		assert.InDelta(t, (14*day + 3*time.Hour).Seconds(), seconds, 1000)
		e.PassReading(7*day, 10*time.Minute, nodes, func() {})
		assert.NotEqual(t, first, activeKey(e))
		assert.Equal(t, "0.0", overdue())
	})
}

// The next key is not published for long enough before: nothing is wrong.
func TestARotationThatWaitsForPublishAheadIsNotOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, map[string]any{"rotation_schedule": "0 * * * *", "publish_ahead": "6h"})
		e.PassReading(20*time.Hour, time.Minute, nodes, func() {
			rotation := e.Read("status/prod").Data["rotation"].(map[string]any)
			assert.NotContains(t, rotation, "overdue_since")
		})
	})
}

func TestTheEventOfAnOperatorsFailedActivationCountsTheFailuresBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, map[string]any{"rotation_period": "30d"})
		e.Sim.Behave(vendorsim.Conduct{Fault: otherKeyThan(activeKey(e))})
		e.Pass(30*day + 6*time.Minute)
		e.Events()
		failures := e.Read("keypair/prod").Data["rotation_failures"].(int)
		require.Equal(t, 2, failures)
		status, _ := e.Activate(nil)
		assert.Equal(t, http.StatusBadRequest, status)
		for _, event := range e.Events() {
			if event.Kind == "tokenbroker/rotation-failed" {
				assert.Equal(t, "3", event.Metadata["failures"])
				failures = 0
			}
		}
		assert.Zero(t, failures, "there is an event")
	})
}

// otherKeyThan returns a fault in which the vendor refuses assertions that another key signs.
func otherKeyThan(id string) func(*http.Request) http.HandlerFunc {
	return func(r *http.Request) http.HandlerFunc {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil
		}
		encoded, _, _ := strings.Cut(form.Get("client_assertion"), ".")
		raw, _ := base64.RawURLEncoding.DecodeString(encoded)
		var header struct{ Kid string }
		if json.Unmarshal(raw, &header) != nil || header.Kid == id {
			return nil
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error": "invalid_client", "error_description": "wrong key"}`))
		}
	}
}

// The status is read while storage is down in particular.
func TestTheStatusOfACredentialWithAKeyPairNeedsNoStorage(t *testing.T) {
	refuse := func(engine.StorageCall) engine.Fault { return engine.Fault{Err: engine.ErrStorage} }
	refuseKeypairs := func(c engine.StorageCall) (f engine.Fault) { // what the list of names needs can be read
		if strings.HasPrefix(c.Key, "keypair/") {
			f.Err = engine.ErrStorage
		}
		return f
	}
	for name, test := range map[string]struct {
		isRead  bool // whether the key pair is in memory
		isOlder bool // whether that is its state of before a write
		next    any
	}{
		"the key pair is in memory":                 {isRead: true, next: "2000-01-31T00:00:00Z"},
		"it is there as it was before the write":    {isRead: true, isOlder: true, next: "2000-01-31T00:00:00Z"},
		"the key pair was not read since the start": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := engine.NewPublished(t, map[string]any{"rotation_period": "30d"})
				storage := e.BreakStorage()
				e.Restart()
				e.Creds("prod")
				if test.isRead {
					e.Read("status/prod")
				}
				if test.isOlder {
					e.Write("keypair/prod", map[string]any{"rotation_period": "60d"})
				}
				for _, meet := range []func(engine.StorageCall) engine.Fault{refuse, refuseKeypairs} {
					storage.OnCall.Store(&meet)
					status := e.Read("status/prod").Data
					assert.Equal(t, "ok", status["state"])
					rotation, isShown := status["rotation"].(map[string]any)
					assert.Equal(t, test.isRead, isShown)
					assert.Equal(t, test.next, rotation["next_vault_rotation"])
				}
				list, status, message := e.Request(logical.ListOperation, "status/", nil)
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, "ok", list.Data["key_info"].(map[string]any)["prod"].(map[string]any)["state"])
				storage.OnCall.Store(nil)
				assert.Contains(t, e.Read("status/prod").Data, "rotation")
			})
		})
	}
}
