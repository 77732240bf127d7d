// Package keypairs_test tests generated key pairs: what they may sign for, how vendors identify
// them, and how a pending pair is activated.
package keypairs_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
