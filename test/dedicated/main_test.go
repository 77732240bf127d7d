// Package dedicated_test tests dedicated roles. Each reader of such a role gets its own token,
// which is revoked with its lease.
package dedicated_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
