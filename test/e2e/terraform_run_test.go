//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// terraformExample is the directory of the example.
const terraformExample = "../../examples/terraform"

// providerVersion is the release that tools/terraform-provider-vault builds. Its go.mod names the
// commit, because the provider's module path allows no v5 tag.
const providerVersion = "5.9.0"

// terraform runs a configuration in a copy of the example.
type terraform struct {
	t       *testing.T
	dir     string // of the configuration
	env     map[string]string
	printed bytes.Buffer // all output so far
}

// newTerraform returns a runner of a folder of the example, with a token of a policy.
func newTerraform(t *testing.T, m *mount, folder, policy string) *terraform {
	t.Helper()
	require.NotEmpty(t, os.Getenv("TOFU"), "run these tests by `make e2e`")
	dir, home := t.TempDir(), t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(terraformExample)))
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "terraform", policy))
	require.NoError(t, os.Symlink(os.Getenv("VAULT"), filepath.Join(home, "vault")))
	return &terraform{t: t, dir: filepath.Join(dir, folder), env: map[string]string{
		"HOME":               home,
		"PATH":               home + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"CHECKPOINT_DISABLE": "1",
		"TF_CLI_ARGS":        "-no-color",
		"TF_CLI_CONFIG_FILE": mirrorProvider(t, home),
		"TF_INPUT":           "0",
		"VAULT_ADDR":         m.server.Address,
		"VAULT_TOKEN":        m.client("terraform").Token(),
	}}
}

// mirrorProvider writes a CLI configuration that installs the provider only from the binary that
// was built.
func mirrorProvider(t *testing.T, home string) (config string) {
	t.Helper()
	mirror := filepath.Join(home, "mirror")
	dir := filepath.Join(mirror, "registry.opentofu.org/hashicorp/vault", providerVersion, runtime.GOOS+"_"+runtime.GOARCH)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.Symlink(os.Getenv("TERRAFORM_PROVIDER_VAULT"), filepath.Join(dir, "terraform-provider-vault_v"+providerVersion)))
	config = filepath.Join(home, "tofurc")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "provider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\n", mirror), 0o600))
	return config
}

// set sets a variable of the configuration.
func (tf *terraform) set(variable, value string) { tf.env["TF_VAR_"+variable] = value }

// withoutKey unsets the variable with the key of the example.
func (tf *terraform) withoutKey() { delete(tf.env, "TF_VAR_private_key") }

// edit replaces text of a file of the configuration.
func (tf *terraform) edit(file, old, replacement string) {
	tf.t.Helper()
	file = filepath.Join(tf.dir, file)
	content, err := os.ReadFile(file)
	require.NoError(tf.t, err)
	require.Contains(tf.t, string(content), old)
	require.NoError(tf.t, os.WriteFile(file, []byte(strings.ReplaceAll(string(content), old, replacement)), 0o600))
}

// savedPlan is the file in which apply saves a plan.
const savedPlan = "saved.tfplan"

// apply saves a plan to a file, applies it, and returns the output of the latter.
func (tf *terraform) apply(status int) string {
	tf.t.Helper()
	tf.run(0, "plan", "-out="+savedPlan)
	return tf.run(status, "apply", savedPlan)
}

// assertNoChanges asserts that a plan has no changes.
func (tf *terraform) assertNoChanges() {
	tf.t.Helper()
	tf.run(0, "plan", "-detailed-exitcode")
}

// assertChanges asserts that a plan has changes.
func (tf *terraform) assertChanges() {
	tf.t.Helper()
	tf.run(2, "plan", "-detailed-exitcode")
}

func (tf *terraform) output(name string) string {
	tf.t.Helper()
	return strings.TrimSpace(tf.run(0, "output", "-raw", name))
}

// run runs a command that must exit with a status, and returns its output.
func (tf *terraform) run(status int, args ...string) string {
	tf.t.Helper()
	ctx, cancel := context.WithTimeout(tf.t.Context(), patience)
	defer cancel()
	var printed bytes.Buffer
	cmd := exec.CommandContext(ctx, os.Getenv("TOFU"), args...)
	cmd.Dir = tf.dir
	for name, value := range tf.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = &printed, &printed
	// Kill the process group, because the providers would outlive the command.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	running, err := process.Start(cmd)
	require.NoError(tf.t, err)
	<-running.Ended()
	tf.printed.Write(printed.Bytes())
	require.Equal(tf.t, status, cmd.ProcessState.ExitCode(), "tofu %s\n%s", strings.Join(args, " "), printed.String())
	return printed.String()
}
