// Package tally counts what came of breaking things on purpose. A test that does so
// records a row; `make faults` runs them all at length, and prints the rows as one table.
package tally

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The environment of a run.
const (
	fileVariable = "FAULTS_TALLY" // the file that rows are added to; none if it is not set
	longVariable = "FAULTS_LONG"  // not empty for the long form
	seedVariable = "SEED"         // of the rng; 1 if it is not set
)

// A Row is one kind of fault, and what came of it.
type Row struct {
	// Fault says what was broken, and Tried how often.
	Fault string `json:"fault"`
	Tried int    `json:"tried"`

	// Dead counts tokens served that their vendor did not take, Lost credentials that
	// can no longer be exchanged although the vendor's last answer had been written,
	// Failed reads that had no reason to fail, and Leaks secrets found where none
	// should be.
	Dead   int `json:"dead"`
	Lost   int `json:"lost"`
	Failed int `json:"failed"`
	Leaks  int `json:"leaks"`

	// Note says what was counted beside that, and explains it.
	Note string `json:"note,omitempty"`
}

// Record adds a row to the table. Nothing may have come of the faults.
func Record(t *testing.T, r Row) {
	t.Helper()
	assert.Positive(t, r.Tried, "%s: nothing was tried", r.Fault)
	assert.Zero(t, r.Dead, "%s: tokens served dead", r.Fault)
	assert.Zero(t, r.Lost, "%s: credentials lost", r.Fault)
	assert.Zero(t, r.Failed, "%s: reads failed without a reason", r.Fault)
	assert.Zero(t, r.Leaks, "%s: secrets leaked", r.Fault)
	t.Logf("%+v", r)
	require.NoError(t, r.Append())
}

// Append adds a row to the table, whatever came of the faults.
func (r Row) Append() error {
	path := os.Getenv(fileVariable)
	if path == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	return errors.Join(err, file.Close())
}

// Times is how often to try a fault: as often as the form of this run has it.
func Times(short, long int) int {
	if os.Getenv(longVariable) != "" {
		return long
	}
	return short
}

// sampled is which part of a matrix the short form tries under the race detector, which
// makes its cells several times as slow.
const sampled = 8

// IsSampled reports whether this run tries a cell of a matrix, given by its number: each
// one, or of the short form under the race detector each eighth.
func IsSampled(cell int) bool {
	return !raceDetector || os.Getenv(longVariable) != "" || cell%sampled == 0
}

// Rand are a test's, the same in each run with the same seed.
func Rand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(1)
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, seedVariable)
	}
	t.Logf("%s=%d", seedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}
