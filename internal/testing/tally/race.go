//go:build race

package tally

// raceDetector reports whether the tests run under the race detector.
const raceDetector = true
