// Package input_test tests how the engine checks the fields of a request: their types, their
// names, and how much of a rejected value an error shows.
package input_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
