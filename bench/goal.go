package main

import (
	"fmt"
	"slices"
)

const (
	minReads    = 0.97  // of the yardstick's
	maxCPU      = 1.10  // of the yardstick's, per read
	minOfOne    = 0.90  // many names' reads, of one name's
	maxResident = 100   // MiB
	maxFirst    = 1.25  // of the first read where there is one credential: all state would cost many times that
	maxStorm    = 1_500 // ms
	maxIdle     = 200   // KiB
)

// A goal is what a figure is wanted to be.
type goal struct {
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Limit    float64 `json:"limit"`
	AtLeast  bool    `json:"at_least"` // or at most
	Met      bool    `json:"met"`

	unit string
}

func atLeast(what string, measured, limit float64, unit string) goal {
	return goal{What: what, Measured: measured, Limit: limit, AtLeast: true, Met: measured >= limit, unit: unit}
}

func atMostOf(what string, measured, limit float64, unit string) goal {
	return goal{What: what, Measured: measured, Limit: limit, Met: measured <= limit, unit: unit}
}

// wanted and got are in the goal's unit; ratios have none, and two decimals more.
func (g goal) wanted() string {
	if g.AtLeast {
		return "at least " + g.format(g.Limit)
	}
	return "at most " + g.format(g.Limit)
}

func (g goal) got() string { return g.format(g.Measured) }

func (g goal) format(value float64) string {
	switch g.unit {
	case "":
		return fmt.Sprintf("%.3f", value)
	case "exchange":
		return fmt.Sprintf("%.0f", value)
	}
	return fmt.Sprintf("%.0f %s", value, g.unit)
}

func (g goal) verdict() string {
	if g.Met {
		return "yes"
	}
	return "**no**"
}

// goals are what the engine is wanted to be, and is or is not.
func (r *report) goals() []goal {
	var goals []goal
	for _, c := range r.Comparisons {
		goals = append(goals,
			atLeast(c.What+": reads a second, of the yardstick's", c.ratio(reads), minReads, ""),
			atMostOf(c.What+": the plugin's CPU time per read, of the yardstick's", c.ratio(pluginCPU), maxCPU, ""))
	}
	s := r.Scale
	of := func(figure func(storm) float64) float64 {
		var worst []float64
		for _, storm := range s.Storms {
			worst = append(worst, figure(storm))
		}
		return slices.Max(worst)
	}
	return append(goals,
		atLeast(fmt.Sprintf("%d names: reads a second, of one name's", s.Credentials), r.Names.ratio(reads), minOfOne, ""),
		atMostOf(fmt.Sprintf("%d credentials: the plugin's resident memory", s.Credentials), s.Resident, maxResident, "MiB"),
		atMostOf(fmt.Sprintf("%d credentials: the first read after a restart, of that with one credential", s.Credentials),
			s.FirstRead/s.FirstAlone, maxFirst, ""),
		atMostOf(fmt.Sprintf("%d readers at expiry: exchanges", s.Storms[0].Readers),
			of(func(s storm) float64 { return float64(s.Exchanges) }), 1, "exchange"),
		atMostOf(fmt.Sprintf("%d readers at expiry, the vendor taking %s: p99", s.Storms[0].Readers, vendorsTime),
			of(func(s storm) float64 { return s.P99 }), maxStorm, "ms"),
		atMostOf(fmt.Sprintf("%d idle mounts: the plugin's memory for each", s.Mounts), s.PerMount, maxIdle, "KiB"))
}
