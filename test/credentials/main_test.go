// Package credentials_test tests what a write does to a stored credential: which fields are
// verified, which keep the cached tokens, and what becomes of a rotated refresh token.
package credentials_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
