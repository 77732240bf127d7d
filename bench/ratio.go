package main

import (
	"fmt"
	"math"
	"slices"
)

// confidence is the probability that an interval contains the true median.
const confidence = 0.95

// A ratio compares a subject with its base within each round, so that a machine whose speed
// changes between rounds does not distort it.
type ratio struct {
	Rounds   []float64 `json:"rounds"`
	Median   float64   `json:"median"`
	Interval interval  `json:"interval"`
}

func newRatio(rounds []float64) ratio {
	return ratio{Rounds: rounds, Median: median(rounds), Interval: medianInterval(rounds)}
}

// An interval is a lower and an upper bound.
type interval [2]float64

// medianInterval returns a confidence interval for the median of the distribution that values
// are samples of. It assumes nothing about the distribution: each value is above the median
// with probability 1/2, so the number above it is binomial, and the interval leaves out as
// many values at each end as the confidence allows. With fewer than six values it leaves out
// none, and the confidence is lower.
func medianInterval(values []float64) interval {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	chance := math.Pow(0.5, float64(n)) // probability of exactly cut values above the median
	fewer := chance                     // probability of at most cut values above the median
	cut := 0
	for {
		chance *= float64(n-cut) / float64(cut+1)
		if fewer+chance > (1-confidence)/2 {
			break
		}
		cut++
		fewer += chance
	}
	// The median is beyond a bound with the probability that at most cut values are on that
	// side of it.
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

func (i interval) String() string { return i.format("%.3f") }

// format formats both bounds with a format for numbers.
func (i interval) format(number string) string { return fmt.Sprintf(number+"–"+number, i[0], i[1]) }
