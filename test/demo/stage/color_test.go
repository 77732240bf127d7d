package stage_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/demo/stage"
)

// The test runs itself in new processes, because the color is decided once per process. script
// runs a command in a terminal.
func TestOnlyATerminalGetsColors(t *testing.T) {
	if os.Getenv("COLOR_TEST") != "" {
		fmt.Println(stage.Heading("## A heading"))
		fmt.Println(stage.Command("vault read"))
		return
	}
	self := os.Args[0] + " -test.run=^" + t.Name() + "$"
	for _, c := range []struct {
		name, command string
		environ       []string
		isColored     bool
	}{
		{"a pipe", self, nil, false},
		{"a terminal", "script -qec '" + self + "' /dev/null", nil, true},
		{"a terminal with NO_COLOR", "script -qec '" + self + "' /dev/null", []string{"NO_COLOR=1"}, false},
		{"a terminal without abilities", "script -qec '" + self + "' /dev/null", []string{"TERM=dumb"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", c.command)
			cmd.Env = append(append(os.Environ(), "COLOR_TEST=1", "NO_COLOR=", "TERM=xterm"), c.environ...)
			output, err := cmd.CombinedOutput()
			require.NoError(t, err, string(output))
			assert.Contains(t, string(output), "## A heading")
			assert.Contains(t, string(output), "$ vault read")
			assert.Equal(t, c.isColored, bytes.ContainsRune(output, '\x1b'), string(output))
		})
	}
}
