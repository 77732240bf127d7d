// Package input_test tests how the engine checks the fields of a request: their types, their names,
// and what an error shows of a value that it refuses.
package input_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
