// Package keypairs_test tests key pairs that are generated in Vault: what they sign for, how they
// authenticate a credential, and how a pending pair is activated.
package keypairs_test

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
