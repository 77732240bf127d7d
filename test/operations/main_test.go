// Package operations_test tests what an operator sees of a running mount: its log and events, and an
// engine of an earlier version on storage that a newer one has written.
package operations_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
