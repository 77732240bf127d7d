package rotation_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// entra is the kind of most tests of what is common to all vendors.
const entra = "entra/client_secret"

func TestAPeriodRotatesTheSecretByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		first := a.fields()
		e.Pass(30*day - time.Minute)
		assert.Equal(t, first, a.fields())
		e.Pass(2 * time.Minute)
		second := a.fields()
		assert.NotEqual(t, first["client_secret"], second["client_secret"])
		rotation := a.status()
		assert.Equal(t, "schedule", rotation["last_rotation_by"])
		assert.Equal(t, "2000-03-01T00:00:00Z", rotation["next_vault_rotation"])
		assert.Equal(t, "2000-04-01T00:00:00Z", second["expires"], "twice the period and the grace")
		e.Pass(30 * day)
		assert.NotEqual(t, second["client_secret"], a.fields()["client_secret"])
		e.Pass(day)
		a.assertSettled()
	})
}

func TestASecretThatIsOlderThanThePeriodIsRotatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		first := a.fields()
		e.Pass(40 * day)
		_, status, message := e.Request(logical.PatchOperation, a.path(), map[string]any{"rotation_period": "30d"})
		assert.Equal(t, http.StatusOK, status, message)
		e.Pass(2 * time.Minute)
		assert.NotEqual(t, first["client_secret"], a.fields()["client_secret"])
	})
}

func TestARotationBeginsOnlyInItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t) // Saturday, 2000-01-01
		a := newAccount(e, entra, map[string]any{"rotation_schedule": "0 3 * * SAT", "rotation_window": "2h", "rotation_grace": "1h"})
		first := a.fields()["client_secret"]
		engine.Until(2, 59, 0)
		e.Sim.Behave(engine.Down())
		e.Pass(3 * time.Hour)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(day)
		assert.Equal(t, first, a.fields()["client_secret"], "the window has closed")
		assert.Equal(t, "2000-01-08T03:00:00Z", a.status()["next_vault_rotation"])
		e.Pass(6 * day)
		assert.NotEqual(t, first, a.fields()["client_secret"])
	})
}

func TestAWriteOfASecretBeginsThePeriodAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		e.Pass(20 * day)
		a.rotate(nil)
		assert.Equal(t, "2000-02-20T00:00:00Z", a.status()["next_vault_rotation"])
	})
}

// At Snowflake, a new key replaces the former one.
func TestADailyScheduleWithTheDefaultGraceKeepsTheKeyInUse(t *testing.T) {
	for _, kind := range []string{"snowflake", "okta/client_secret", "databricks/account"} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
			a := newAccount(e, kind, map[string]any{"rotation_schedule": "0 */6 * * *"})
			for range 20 {
				e.Pass(3 * time.Hour)
				assert.True(t, a.accepts(a.fields()), kind)
				e.Creds(a.name)
				assert.NotContains(t, a.status(), "last_error", kind)
			}
		})
	}
}

func TestAClockThatWasAheadDoesNotStopTheSchedule(t *testing.T) {
	ahead := func() string { return time.Now().Add(365 * day).UTC().Format(time.RFC3339) }
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		first := a.fields()["client_secret"]
		e.Amend(a.path(), func(entry map[string]any) { entry["write_time"] = ahead() })
		e.Restart()
		e.Creds(a.name)
		e.Pass(2 * time.Minute)
		assert.NotEqual(t, first, a.fields()["client_secret"])
		assert.Equal(t, 2, a.live())
		e.Amend(a.path(), func(entry map[string]any) {
			entry["rotation"].(map[string]any)["formers"].([]any)[0].(map[string]any)["remove_time"] = ahead()
		})
		e.Restart()
		e.Pass(day + time.Hour)
		a.assertSettled()
	})
}

func TestAPeriodThatTheVendorsSecretsDoNotLastIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "google", nil)
		_, status, message := e.Request(logical.PatchOperation, a.path(), map[string]any{"rotation_period": "360d"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "rotation_period: must be at most 351d, as a secret there expires after 365d", message)
		_, status, message = e.Request(logical.PatchOperation, a.path(), map[string]any{"rotation_period": "351d"})
		assert.Equal(t, http.StatusOK, status, message)
	})
}

func TestASecretThatRotatesDailyOutlivesASealedVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "24h"})
		e.Pass(3 * day)
		time.Sleep(20 * day)
		e.Restart()
		e.Creds(a.name)
		e.Pass(2 * day)
		a.assertSettled()
	})
}

// GitLab's tokens end at the beginning of a day.
func TestATokenThatRotatesTwiceADayDoesNotEndBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Pass(17 * time.Hour)
		a := newAccount(e, "gitlab-token", map[string]any{"rotation_period": "12h"})
		for range 10 {
			e.Pass(6 * time.Hour)
			a.assertSettled()
		}
	})
}

func TestADefinitionThatLosesItsRotationIsReportedLikeAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newOwn(t, map[string]any{"grant_type": "client_credentials", "scope": "read", "rotation_period": "10d"})
		definition, _, _ := strings.Cut(ownDefinition, `"rotations"`)
		a.Write("vendors/acme", map[string]any{"definition": strings.TrimRight(definition, ", \n") + "}"})
		a.Pass(10*day + time.Hour)
		assert.Contains(t, a.status()["last_error"], "the engine knows no API of Acme that replaces this secret")
		assert.Equal(t, "degraded", a.Read("status/prod").Data["state"])
		assert.LessOrEqual(t, len(a.events("tokenbroker/rotation-failed")), 10)
	})
}

// Given a server that is sealed in each window, an operator learns that nothing rotates.
func TestARotationThatMissesItsWindowsIsOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_schedule": "0 3 * * SAT", "rotation_window": "2h", "rotation_grace": "1h"})
		began, first := time.Now(), a.fields()["client_secret"] // Saturday, 2000-01-01 00:00
		overdue := func() string {
			return e.Metrics()[`tokenbroker_rotation_overdue_seconds{name="`+a.name+`",vendor="entra"}`]
		}
		e.Pass(time.Hour)
		assert.Equal(t, "0.0", overdue())
		assert.NotContains(t, a.status(), "overdue_since")
		for week := range 3 {
			e.Pass(time.Until(began.AddDate(0, 0, 7*week).Add(2 * time.Hour)))
			time.Sleep(4 * time.Hour)
			e.Restart()
			e.Pass(time.Minute)
		}
		assert.Equal(t, first, a.fields()["client_secret"])
		assert.Equal(t, "2000-01-01T03:00:00Z", a.status()["overdue_since"])
		assert.Equal(t, "2000-01-22T03:00:00Z", a.status()["next_vault_rotation"])
		assert.Equal(t, "1.22046e+06", overdue(), "two weeks, three hours and a minute")

		e.Pass(7 * day)
		assert.NotEqual(t, first, a.fields()["client_secret"])
		assert.Equal(t, "0.0", overdue())
		assert.NotContains(t, a.status(), "overdue_since")
	})
}

func TestInvalidPlansAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		for says, fields := range map[string]map[string]any{
			"rotation_schedule: cannot be given together with rotation_period":         {"rotation_period": "30d", "rotation_schedule": "0 3 * * SAT"},
			"rotation_period: must be at least 1m":                                     {"rotation_period": "30s"},
			"rotation_schedule: not a cron expression of five fields":                  {"rotation_schedule": "@daily"},
			"rotation_schedule: is in UTC; leave out CRON_TZ":                          {"rotation_schedule": "CRON_TZ=Asia/Tokyo 0 3 * * SAT"},
			"rotation_window: only applies to rotation_schedule":                       {"rotation_window": "2h"},
			"rotation_grace: must be at least 1h":                                      {"rotation_grace": "59m"},
			"rotation_grace: must be shorter than the time between two rotations, 30d": {"rotation_grace": "30d", "rotation_period": "30d"},
		} {
			_, status, message := e.Request(logical.PatchOperation, a.path(), fields)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, says)
		}
	})
}

func TestARotationThatIsNotPossibleIsRefusedWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/link", map[string]any{"refresh_token": engine.RefreshToken})
		for path, data := range map[string]map[string]any{"config/kensho/link/rotate": nil, "config/kensho/link": {"rotation_period": "30d"}} {
			_, status, message := e.Request(logical.UpdateOperation, path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "the engine knows no API of the vendor that replaces this secret; write a new one to the credential instead")
		}
		_, fields := e.Sim.AddRotating(entra, "unidentified")
		delete(fields, "secret_id")
		e.Write("config/entra/unidentified", fields)
		_, status, message := e.Request(logical.UpdateOperation, "config/entra/unidentified/rotate", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "secret_id: must be set for a rotation: the ID of the client secret (Key ID), for its rotation")
		_, status, message = e.Request(logical.UpdateOperation, "config/entra/nobody/rotate", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "no credential found at config/entra/nobody")
	})
}
