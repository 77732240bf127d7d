package exchange

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheReferenceHasEachFunctionAndUnit(t *testing.T) {
	page, err := os.ReadFile("../../docs/definitions.md")
	require.NoError(t, err)
	for name := range functions {
		assert.Contains(t, string(page), "`"+name+"`")
	}
	for _, unit := range Units {
		assert.Contains(t, string(page), "`"+string(unit)+"`")
	}
}
