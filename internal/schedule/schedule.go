// Package schedule says when a credential or a key pair is rotated. The fields and their meaning are those of
// Vault's own engines.
package schedule

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/rotation"

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
	if _, err := rotation.DefaultScheduler.Parse(s.Cron); err != nil {
		// The error quotes the value, which may be a misplaced secret (guarantee 6).
		return provider.Errorf(provider.Invalid, `%s: not a cron expression of five fields, such as "0 3 * * SAT"`, ScheduleField)
	}
	if s.after(time.Now()).IsZero() {
		return provider.Errorf(provider.Invalid, "%s: has no time within five years", ScheduleField)
	}
	return nil
}

// Next returns when the rotation is due that follows the one at last; the zero time if there is none. A time
// of Cron whose window has passed by now is left out.
func (s Schedule) Next(last, now time.Time) time.Time {
	switch {
	case s.Period != 0:
		return last.Add(s.Period)
	case s.Cron == "":
		return time.Time{}
	}
	next := s.after(last)
	if s.Window != 0 && !next.IsZero() && !now.Before(next.Add(s.Window)) {
		next = s.after(now.Add(-s.Window))
	}
	return next
}

// after returns the first time of Cron after t; the zero time if there is none within five years.
func (s Schedule) after(t time.Time) time.Time {
	spec, err := rotation.DefaultScheduler.Parse(s.Cron)
	if err != nil {
		return time.Time{}
	}
	return spec.Next(t.UTC())
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
