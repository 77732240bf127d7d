package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process loads the system's root certificates only once, so the test runs itself in a new
// process.
func TestVendorsAreCheckedInAnImageWithoutAuthorities(t *testing.T) {
	if os.Getenv("SSL_CERT_FILE") == "/nowhere" {
		roots, err := x509.SystemCertPool()
		require.NoError(t, err)
		assert.False(t, roots.Equal(x509.NewCertPool()), "the pool is empty")
		return
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	again.Env = append(os.Environ(), "SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=/nowhere")
	output, err := again.CombinedOutput()
	require.NoError(t, err, string(output))
}

// runsMain is set in the environment of the processes in which the tests run this program.
const runsMain = "TEST_RUNS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runsMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program returns a command that runs this program, without the environment of the tests.
func program(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = []string{runsMain + "=1"}
	return cmd
}

func TestThePluginStartedByHandPrintsWhatItIs(t *testing.T) {
	for _, c := range []struct {
		args   []string
		stdout string
		stderr []string
		status int
	}{
		{args: []string{"-version"}, stdout: "vault-plugin-secrets-tokenbroker v0.0.0-dev\n"},
		{args: []string{"-h"}, stderr: []string{"a secrets engine for Vault", "-version"}},
		{status: 1, stderr: []string{"vault-plugin-secrets-tokenbroker v0.0.0-dev is a secrets engine for Vault", "-command=vault-plugin-secrets-tokenbroker-v0.0.0-dev -version=v0.0.0-dev secret tokenbroker"}},
		{args: []string{"-ca-cert=ca.pem", "-tls-skip-verify"}, status: 1, stderr: []string{"vault plugin register"}},
		{args: []string{"-v"}, status: 1, stderr: []string{"flag provided but not defined: -v\n"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			cmd := program(t, c.args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			require.Equal(t, c.status == 0, err == nil, "%v\n%s", err, &stderr)
			assert.Equal(t, c.status, cmd.ProcessState.ExitCode())
			assert.Equal(t, c.stdout, stdout.String())
			for _, text := range c.stderr {
				assert.Contains(t, stderr.String(), text)
			}
			assert.Equal(t, len(c.stderr) > 0, stderr.Len() > 0, &stderr)
		})
	}
}

// Given the environment and the flags of a server, the plugin serves.
func TestThePluginStartedByAServerServes(t *testing.T) {
	cmd := program(t, "-ca-cert=ca.pem", "-tls-skip-verify")
	cmd.Env = append(cmd.Env,
		plugin.HandshakeConfig.MagicCookieKey+"="+plugin.HandshakeConfig.MagicCookieValue,
		"PLUGIN_PROTOCOL_VERSIONS=5", "PLUGIN_UNIX_SOCKET_DIR="+t.TempDir(), api.PluginAutoMTLSEnv+"=true",
	)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	handshake, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	assert.Regexp(t, `^1\|5\|unix\|`, handshake)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}
