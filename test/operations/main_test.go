// Package operations_test tests what an operator sees of a mount: its log and events, and how
// the engine behaves on storage that a newer version has written.
package operations_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
