// Package leaktest fails the tests of a package that leave goroutines behind.
package leaktest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds the wait for goroutines that are ending. It only costs time where one
// never ends: goleak's own, under a second, is too short for a busy machine.
const patience = time.Minute

// Main runs the tests of a package, and exits.
func Main(m *testing.M) {
	status := m.Run()
	if status == 0 {
		if err := await(goleak.Find, patience); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left behind:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// await calls find until it finds no goroutine, and returns its last error.
func await(find func(...goleak.Option) error, patience time.Duration) (err error) {
	// Vault's SDK pulls in OpenCensus, which starts one in its init and cannot end it.
	known := goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start")
	for began := time.Now(); ; {
		if err = find(known); err == nil || time.Since(began) > patience {
			return err
		}
	}
}
