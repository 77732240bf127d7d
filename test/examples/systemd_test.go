package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const agentService = "vault-agent-kensho.service"

// systemd knows each setting of the unit, and its own rating of the hardening is "OK" (at most 2 of
// 10) or better.
func TestAgentServiceIsAValidAndHardenedUnit(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "examples/agent", agentService))
	require.NoError(t, err)
	unit := filepath.Join(t.TempDir(), agentService)
	// systemd requires that the program exists.
	require.NoError(t, os.WriteFile(unit, []byte(strings.Replace(string(text), "ExecStart=/usr/bin/vault ", "ExecStart=/bin/true ", 1)), 0o600))
	for _, args := range [][]string{
		{"verify", "--man=no", unit},
		{"security", "--offline=true", "--threshold=20", "--no-pager", unit},
	} {
		output, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		require.NoError(t, err, "systemd-analyze %s: %s", args[0], output)
		if args[0] == "verify" {
			require.Empty(t, string(output), "an unknown setting is only a warning")
		}
	}
}
