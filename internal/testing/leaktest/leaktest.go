// Package leaktest fails the tests of a package if they leak goroutines.
package leaktest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds the wait for goroutines that are about to end. It costs time only if one never
// ends. goleak's default, less than a second, is too short for a busy machine.
const patience = time.Minute

// Main runs the tests of a package and exits. Call it from TestMain.
func Main(m *testing.M) {
	status := m.Run()
	if status == 0 {
		if err := await(goleak.Find, patience); err != nil {
			fmt.Fprintln(os.Stderr, "leaked goroutines:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// await calls find until it returns nil or patience has passed, and returns the last error.
func await(find func(...goleak.Option) error, patience time.Duration) (err error) {
	// Vault's SDK imports OpenCensus, whose init function starts a goroutine that never ends.
	known := goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start")
	for began := time.Now(); ; {
		if err = find(known); err == nil || time.Since(began) > patience {
			return err
		}
	}
}
