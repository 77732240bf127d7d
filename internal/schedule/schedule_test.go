package schedule

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPeriodCountsFromTheLastRotation(t *testing.T) {
	last := time.Date(2026, 3, 1, 10, 0, 30, 0, time.UTC)
	assert.Equal(t, last.Add(30*24*time.Hour), Schedule{Period: 30 * 24 * time.Hour}.Next(last, last))
	assert.Zero(t, Schedule{}.Next(last, last))
}

func TestACronExpressionIsInUTC(t *testing.T) {
	newYork := time.FixedZone("-05", -5*3600)
	last := time.Date(2026, 2, 28, 23, 0, 0, 0, newYork) // Sunday, 04:00 in UTC
	next := Schedule{Cron: "0 3 * * SAT"}.Next(last, last)
	assert.Equal(t, time.Date(2026, 3, 7, 3, 0, 0, 0, time.UTC), next)
}

func TestARotationOutsideItsWindowWaitsForTheNextTime(t *testing.T) {
	weekly := Schedule{Cron: "0 3 * * SAT", Window: 2 * time.Hour}
	last := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	first := time.Date(2026, 3, 7, 3, 0, 0, 0, time.UTC)
	assert.Equal(t, first, weekly.Next(last, first.Add(2*time.Hour-time.Second)), "the window is open")
	assert.Equal(t, first.AddDate(0, 0, 7), weekly.Next(last, first.Add(2*time.Hour)), "the window has closed")
	assert.Equal(t, first.AddDate(0, 0, 21), weekly.Next(last, first.AddDate(0, 0, 21).Add(time.Hour)), "after an outage of three weeks, in a window")
	assert.Equal(t, first, Schedule{Cron: weekly.Cron}.Next(last, first.AddDate(0, 0, 21)), "without a window it begins at once")
	assert.Equal(t, first, weekly.First(last), "it is overdue since then")
}

func TestInvalidSchedulesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for field, s := range map[string]Schedule{
			"rotation_schedule: cannot be given together with rotation_period": {Period: time.Hour, Cron: "@daily"},
			"rotation_period: must be at least 1m":                             {Period: 59 * time.Second},
			"rotation_window: only applies to rotation_schedule":               {Period: time.Hour, Window: time.Hour},
			"rotation_window: must be at least 1h":                             {Cron: "0 3 * * *", Window: 59 * time.Minute},
			"rotation_schedule: not a cron expression":                         {Cron: "0 3 * * * *"},
			"rotation_schedule: has no time within five years":                 {Cron: "0 0 30 2 *"},
			"rotation_schedule: is in UTC; leave out CRON_TZ":                  {Cron: "CRON_TZ=Asia/Tokyo 0 3 * * SAT"},
		} {
			require.ErrorContains(t, s.Check(), field)
		}
		require.EqualError(t, Schedule{Cron: "TZ=UTC @daily"}.Check(), "rotation_schedule: is in UTC; leave out CRON_TZ")
		for _, s := range []Schedule{{}, {Period: time.Minute}, {Cron: "0 3 * * SAT"}, {Cron: "*/5 1-3 1 * *", Window: time.Hour}} {
			require.NoError(t, s.Check())
		}
	})
}
