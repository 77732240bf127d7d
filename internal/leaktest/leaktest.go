// Package leaktest has the tests of a package fail if they leave goroutines behind.
package leaktest

import (
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package.
func Main(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Vault's SDK pulls in OpenCensus, which starts one in its init and has no way to end it.
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}
