package main

import (
	"fmt"
	"slices"
)

const (
	minReads    = 1.00  // reads per second, relative to the yardstick
	maxCPU      = 1.00  // CPU time per read, relative to the yardstick
	minOfOne    = 0.90  // reads per second with many names, relative to one name
	maxResident = 100   // MiB
	maxLarge    = 150   // MiB, with very many credentials of which few are read
	maxFirst    = 1.25  // first read, relative to a mount with one credential; loading all state would far exceed it
	maxStorm    = 1_500 // ms
	maxIdle     = 200   // KiB per mount
	maxSweep    = 50    // ms, with no renewal due
	maxRenewing = 1.25  // sweep with renewals, relative to the vendor's time
)

// A goal is a limit for a figure, and whether the measured value meets it.
type goal struct {
	What     string    `json:"what"`
	Measured float64   `json:"measured"`
	Interval *interval `json:"interval,omitempty"` // if Measured is a median of rounds
	Limit    float64   `json:"limit"`
	AtLeast  bool      `json:"at_least"` // false: Limit is a maximum
	Met      bool      `json:"met"`
	Surely   bool      `json:"surely"` // the whole interval agrees with Met

	unit string
}

func atLeast(what string, r ratio, limit float64) goal {
	return goal{What: what, Measured: r.Median, Interval: &r.Interval, Limit: limit, AtLeast: true}.judged()
}

func atMostOf(what string, r ratio, limit float64) goal {
	return goal{What: what, Measured: r.Median, Interval: &r.Interval, Limit: limit}.judged()
}

func atMostIn(what string, measured, limit float64, unit string) goal {
	return goal{What: what, Measured: measured, Limit: limit, unit: unit}.judged()
}

// judged returns the goal with Met and Surely set.
func (g goal) judged() goal {
	g.Met, g.Surely = g.meets(g.Measured), true
	if g.Interval != nil {
		g.Surely = g.meets(g.Interval[0]) == g.meets(g.Interval[1])
	}
	return g
}

func (g goal) meets(value float64) bool {
	if g.AtLeast {
		return value >= g.Limit
	}
	return value <= g.Limit
}

// target formats the limit. Ratios have no unit and three decimals.
func (g goal) target() string {
	if g.AtLeast {
		return "at least " + g.format(g.Limit)
	}
	return "at most " + g.format(g.Limit)
}

func (g goal) got() string {
	if g.Interval != nil {
		return g.format(g.Measured) + " (" + g.Interval.format(g.number()) + ")"
	}
	return g.format(g.Measured)
}

func (g goal) format(value float64) string {
	number := fmt.Sprintf(g.number(), value)
	switch g.unit {
	case "", "exchange":
		return number
	}
	return number + " " + g.unit
}

// number returns the format of the numbers: ratios have three decimals.
func (g goal) number() string {
	switch g.unit {
	case "":
		return "%.3f"
	case "s", "%":
		return "%.1f"
	}
	return "%.0f"
}

func (g goal) verdict() string {
	switch {
	case g.Met && g.Surely:
		return "yes"
	case g.Met:
		return "yes, uncertain"
	case g.Surely:
		return "**no**"
	}
	return "no, uncertain"
}

// goals returns the goals for all figures of the report.
func (r *report) goals() []goal {
	var goals []goal
	for _, c := range r.Comparisons {
		goals = append(goals,
			atLeast(c.What+": reads per second, relative to the yardstick", c.ratio(reads), minReads),
			atMostOf(c.What+": CPU time of the plugin per read, relative to the yardstick", c.ratio(pluginCPU), maxCPU))
	}
	if len(r.Names) == 0 { // only the reads were measured
		return goals
	}
	s := r.Scale
	for _, c := range r.Names {
		goals = append(goals, atLeast(fmt.Sprintf("%s, %d names: reads per second, relative to one name", c.What, s.Credentials),
			c.ratio(reads), minOfOne))
	}
	goals = append(goals, s.Large.goals()...)
	return append(goals,
		atMostIn(fmt.Sprintf("%d credentials: resident memory of the plugin", s.Credentials), s.Resident, maxResident, "MiB"),
		atMostIn(fmt.Sprintf("%d credentials: first read after a restart, relative to one credential", s.Credentials),
			s.FirstRead/s.FirstOfOne, maxFirst, ""),
		atMostIn(fmt.Sprintf("%d credentials: sweep with nothing to renew", s.Credentials), s.SweepIdle, maxSweep, "ms"),
		atMostIn(fmt.Sprintf("%d of %d credentials to renew, vendor response time %s, %d at once: sweep",
			s.Due, s.Credentials+s.Due, vendorsTime, sweepRenewals), s.SweepDue, maxRenewing*vendorsShare(s.Due), "ms"),
		atMostIn(fmt.Sprintf("%d readers at expiry: exchanges", s.Storms[0].Readers),
			s.worst(func(s storm) float64 { return float64(s.Exchanges) }), 1, "exchange"),
		atMostIn(fmt.Sprintf("%d readers at expiry, vendor response time %s: p99", s.Storms[0].Readers, vendorsTime),
			s.worst(func(s storm) float64 { return s.P99 }), maxStorm, "ms"),
		atMostIn(fmt.Sprintf("%d idle mounts: memory of the plugin for each", s.Mounts), s.PerMount, maxIdle, "KiB"))
}

// worst returns the maximum of a figure over all storms.
func (s scale) worst(figure func(storm) float64) float64 {
	var all []float64
	for _, storm := range s.Storms {
		all = append(all, figure(storm))
	}
	return slices.Max(all)
}

// vendorsShare returns how many milliseconds of a sweep with a number of renewals are the
// vendor's.
func vendorsShare(renewals int) float64 {
	turns := (renewals + sweepRenewals - 1) / sweepRenewals
	return float64(turns) * milliseconds(vendorsTime)
}
