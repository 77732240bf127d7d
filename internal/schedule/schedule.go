// Package schedule says when a credential or a key pair is rotated. The fields and their meaning are those of
// Vault's own engines.
package schedule

import (
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/rotation"
	"github.com/robfig/cron/v3"

	"vault-plugin-secrets-tokenbroker/provider"
)

// The names of the fields.
const (
	PeriodField   = "rotation_period"
	ScheduleField = "rotation_schedule"
	WindowField   = "rotation_window"
)

// Fields are the names of the fields.
var Fields = []string{PeriodField, ScheduleField, WindowField}

// MinPeriod is the shortest period. The background work runs once a minute.
const MinPeriod = time.Minute

// A Schedule has the times of rotations: one each Period, or those of a cron expression in UTC. The zero
// Schedule has none.
type Schedule struct {
	Period time.Duration `json:"rotation_period,omitempty"`
	Cron   string        `json:"rotation_schedule,omitempty"`

	// Window is how long after a time of Cron a rotation may begin; zero for any time.
	Window time.Duration `json:"rotation_window,omitempty"`

	parsed cron.Schedule // of Cron; nil if it is not parsed yet
}

// Parsed returns the schedule with Cron parsed, so that Next is fast. Schedules that are compared are not parsed.
func (s Schedule) Parsed() Schedule {
	if spec, err := rotation.DefaultScheduler.Parse(s.Cron); err == nil {
		s.parsed = spec
	}
	return s
}

// IsZero reports whether there are no rotations.
func (s Schedule) IsZero() bool { return s.Period == 0 && s.Cron == "" }

// Check returns an error of kind Invalid that names the field at fault.
func (s Schedule) Check() error {
	switch {
	case s.Period != 0 && s.Cron != "":
		return provider.Errorf(provider.Invalid, "%s: cannot be given together with %s; clear one of them", ScheduleField, PeriodField)
	case s.Period != 0 && s.Period < MinPeriod:
		return provider.Errorf(provider.Invalid, "%s: must be at least %s; 0 for no rotation", PeriodField, MinPeriod)
	case s.Window != 0 && s.Cron == "":
		return provider.Errorf(provider.Invalid, "%s: only applies to %s; set that, or omit this", WindowField, ScheduleField)
	case s.Window != 0 && rotation.DefaultScheduler.ValidateRotationWindow(int(s.Window.Seconds())) != nil:
		return provider.Errorf(provider.Invalid, "%s: must be at least 1h", WindowField)
	case s.Cron == "":
		return nil
	}
	if strings.HasPrefix(s.Cron, "CRON_TZ=") || strings.HasPrefix(s.Cron, "TZ=") {
		return provider.Errorf(provider.Invalid, "%s: is in UTC; leave out CRON_TZ", ScheduleField)
	}
	if _, err := rotation.DefaultScheduler.Parse(s.Cron); err != nil {
		// The error quotes the value, which may be a misplaced secret (guarantee 6).
		return provider.Errorf(provider.Invalid, `%s: not a cron expression of five fields, such as "0 3 * * SAT"`, ScheduleField)
	}
	if s.after(time.Now()).IsZero() {
		return provider.Errorf(provider.Invalid, "%s: has no time within five years", ScheduleField)
	}
	return nil
}

// First returns the first time of the schedule after the rotation at last, since when the next one is overdue if there was
// none; the zero time if there is no schedule.
func (s Schedule) First(last time.Time) time.Time {
	switch {
	case s.Period != 0:
		return last.Add(s.Period)
	case s.Cron == "":
		return time.Time{}
	}
	return s.after(last)
}

// Next returns when the rotation may begin that follows the one at last; the zero time if there is no schedule. It is First,
// but a time of Cron whose window has passed by now is left out.
func (s Schedule) Next(last, now time.Time) time.Time {
	next := s.First(last)
	if s.Window != 0 && !next.IsZero() && !now.Before(next.Add(s.Window)) {
		next = s.after(now.Add(-s.Window))
	}
	return next
}

// Intervals returns the shortest and the longest time between two rotations; zero if there are none. Those of Cron are
// among its first 60 times after a fixed one, so that they are the same whenever they are asked for.
func (s Schedule) Intervals() (shortest, longest time.Duration) {
	if s.Cron == "" {
		return s.Period, s.Period
	}
	s = s.Parsed()
	last := s.after(time.Unix(0, 0))
	for range 60 {
		next := s.after(last)
		if next.IsZero() {
			break
		}
		interval := next.Sub(last)
		if shortest == 0 || interval < shortest {
			shortest = interval
		}
		longest, last = max(longest, interval), next
	}
	return shortest, longest
}

// after returns the first time of Cron after t; the zero time if there is none within five years.
func (s Schedule) after(t time.Time) time.Time {
	if s.parsed == nil {
		s = s.Parsed()
	}
	if s.parsed == nil {
		return time.Time{}
	}
	return s.parsed.Next(t.UTC())
}

// FieldSchemas returns the fields. what is what rotates: the credential, or the key pair.
func FieldSchemas(what string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		PeriodField: {
			Type:         framework.TypeDurationSecond,
			Description:  "How often to rotate " + what + ", at least 1m. Not together with rotation_schedule. Default: never.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation period"},
		},
		ScheduleField: {
			Type:         framework.TypeString,
			Description:  "When to rotate " + what + ": a cron expression of five fields, in UTC (0 3 * * SAT). Not together with rotation_period. Default: never.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation schedule"},
		},
		WindowField: {
			Type:         framework.TypeDurationSecond,
			Description:  "How long after a time of rotation_schedule the rotation may begin, at least 1h. If it cannot begin in that time, it begins at the next. Default: at any time.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation window"},
		},
	}
}
