// Package dedicated_test tests dedicated roles, whose readers each get a token of their own that ends
// with its lease.
package dedicated_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
