// Package tally records the results of fault tests. Each test records a row. `make faults` runs
// the long form of all fault tests and prints the rows as a table.
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

// The environment variables of a run.
const (
	fileVariable = "FAULTS_TALLY" // file to append rows to; if empty, rows are not stored
	longVariable = "FAULTS_LONG"  // not empty for the long form
	seedVariable = "SEED"         // seed of random numbers; 1 if not set
)

// A Row is the result of one kind of fault.
type Row struct {
	// Fault describes the fault, and Tried counts how often it was caused.
	Fault string `json:"fault"`
	Tried int    `json:"tried"`

	// Invalid counts served tokens that the vendor did not accept. Lost counts credentials
	// that could no longer be exchanged although the vendor's last response had been stored.
	// Failed counts reads that failed without a reason. Leaks counts secrets that were found
	// outside the engine.
	Invalid int `json:"invalid"`
	Lost    int `json:"lost"`
	Failed  int `json:"failed"`
	Leaks   int `json:"leaks"`

	// Note explains the row, and may contain further counts.
	Note string `json:"note,omitempty"`
}

// Record appends a row to the table, and fails the test if one of its counts of damage is not
// zero, or if nothing was tried.
func Record(t *testing.T, r Row) {
	t.Helper()
	assert.Positive(t, r.Tried, "%s: nothing was tried", r.Fault)
	assert.Zero(t, r.Invalid, "%s: invalid tokens served", r.Fault)
	assert.Zero(t, r.Lost, "%s: credentials lost", r.Fault)
	assert.Zero(t, r.Failed, "%s: reads failed without a reason", r.Fault)
	assert.Zero(t, r.Leaks, "%s: secrets leaked", r.Fault)
	t.Logf("%+v", r)
	require.NoError(t, r.Append())
}

// Append appends a row to the table, and does not check its counts.
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

// Times returns how often to cause a fault in this run: short times or long times.
func Times(short, long int) int {
	if os.Getenv(longVariable) != "" {
		return long
	}
	return short
}

// sampled is the fraction of a matrix, 1/sampled, that the short form tries under the race
// detector, which makes each cell several times slower.
const sampled = 8

// IsSampled reports whether this run tries the cell of a matrix with the given number. It is
// true for all cells, except that the short form under the race detector tries every eighth.
func IsSampled(cell int) bool {
	return !raceDetector || os.Getenv(longVariable) != "" || cell%sampled == 0
}

// Rand returns a source of random numbers with the seed of this run, and logs the seed.
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
