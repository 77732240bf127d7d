package main

import (
	"fmt"
	"math"
	"slices"
)

// confidence is how often an interval holds the true median.
const confidence = 0.95

// A ratio is how a subject compares with its base, round by round: a machine that drifts
// from one round to the next changes both.
type ratio struct {
	Rounds   []float64 `json:"rounds"`
	Median   float64   `json:"median"`
	Interval interval  `json:"interval"`
}

func newRatio(rounds []float64) ratio {
	return ratio{Rounds: rounds, Median: median(rounds), Interval: medianInterval(rounds)}
}

// An interval is its ends.
type interval [2]float64

// medianInterval holds the median of what values are samples of, whatever their
// distribution: each is above it as often as a coin shows heads, so that as many as heads
// hardly ever are so few may be cut off at each end. Fewer than six are too few to be
// confident of, and nothing is cut off.
func medianInterval(values []float64) interval {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	chance := math.Pow(0.5, float64(n)) // of so many heads
	fewer := chance                     // of so many or fewer
	cut := 0
	for {
		chance *= float64(n-cut) / float64(cut+1)
		if fewer+chance > (1-confidence)/2 {
			break
		}
		cut++
		fewer += chance
	}
	// The chance that the median is beyond an end is that of as many heads as are cut
	// off, or fewer.
	return interval{sorted[cut], sorted[n-1-cut]}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func (i interval) String() string { return fmt.Sprintf("%.3f–%.3f", i[0], i[1]) }
