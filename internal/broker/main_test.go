package broker

import (
	"testing"

	"vault-plugin-secrets-tokenbroker/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
