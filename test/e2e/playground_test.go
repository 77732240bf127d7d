//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/test/internal/customer"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

// outageAt are the commands that the playground prints for Kensho, and what they do.
var outageAt = []struct {
	prints string
	fails  bool
}{
	{prints: accessTokenLine},
	{prints: " is down"},
	{prints: "the cached token stays in use", fails: true},
	{prints: noNewerToken},
	{prints: " is up"},
	{prints: "expire_time  "},
}

const accessTokenLine, noNewerToken = "access_token  ", "the vendor issues no newer token"

// The commands of the playground work as printed, also for the other vendors.
func TestThePlaygroundsCommandsWorkAsPrinted(t *testing.T) {
	t.Parallel()
	p := startPlayground(t, t.TempDir(), playgroundBinary(t)...)
	require.Len(t, p.commands, len(outageAt))
	for vendor, minTTL := range map[string]string{"kensho": "1h", "oauth2": "1h", "sitecore": "25h"} {
		for _, printed := range []string{"kensho", vendor, "min_ttl=" + minTTL} {
			assert.Contains(t, p.printed, printed)
		}
		other := strings.NewReplacer("kensho", vendor, "min_ttl=1h", "min_ttl="+minTTL)
		var outputs []string
		for i, step := range outageAt {
			output, err := p.run(other.Replace(p.commands[i]))
			assert.Equal(t, step.fails, err != nil, "%s: %v", p.commands[i], err)
			assert.Contains(t, output, step.prints)
			outputs = append(outputs, output)
		}
		assert.NotContains(t, outputs[0], noNewerToken)
		token := lineWith(outputs[0], accessTokenLine)
		assert.NotEmpty(t, token)
		assert.Equal(t, token, lineWith(outputs[3], accessTokenLine), "the read in the outage returns the cached token")
		output, err := p.run(other.Replace(p.commands[3])) // a read after the outage
		require.NoError(t, err)
		assert.NotContains(t, output, noNewerToken)
	}
	p.end(syscall.SIGINT)
}

// A script that starts the playground through make ends it with the command that it prints.
func TestTheCommandForScriptsEndsThePlayground(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	copyRepository(t, root, dir)
	p := startPlayground(t, dir, "make", "--no-print-directory", "playground")
	_, command, found := strings.Cut(p.printed, "From a script: ")
	require.True(t, found, p.printed)
	_, err = p.run(command)
	require.NoError(t, err)
	p.assertEnded()
}

// The pages of the reading order in docs/README.md can be followed one after the other in the
// playground, from the installation of the plugin to its removal. Ctrl-C ends it. The test adds the
// Kubernetes cluster that a page needs.
func TestPagesCanBeFollowedInOrder(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	order, err := docwalk.Order(os.DirFS(root), "docs/README.md", "Read in order")
	require.NoError(t, err)
	require.Equal(t, readme, order[0])
	require.Equal(t, "docs/operations.md", order[len(order)-1])
	require.NoError(t, atAnyHour(t, func() error {
		dir := t.TempDir()
		copyRepository(t, root, dir)
		p := startPlayground(t, dir, "make", "--no-print-directory", "playground")
		p.addKubernetes()
		provided := addable(t, dir)
		reader := docwalk.NewReader(dir, p.environ)
		for _, name := range order {
			page := parsePage(t, root, name).Without(docwalk.Cluster).Without(docwalk.Package)
			if page.Commands() == 0 {
				require.Zero(t, parsePage(t, root, name).Commands(), "%s needs a cluster, so no test follows it in the order", name)
				continue
			}
			t.Logf("follow %s", name)
			ctx, cancel := context.WithTimeout(t.Context(), pageTime)
			err := reader.Follow(ctx, page.Without(docwalk.Setup))
			cancel()
			if err != nil {
				return err
			}
		}
		mounts, err := p.run("vault secrets list")
		require.NoError(t, err)
		assert.NotContains(t, mounts, pluginName, "a mount is left")
		files, err := p.run(`ls "$VAULT_PLUGIN_DIR"`)
		require.NoError(t, err)
		assert.NotContains(t, files, pluginName+"-v", "a file of the plugin is left")
		p.end(syscall.SIGINT)
		assertNoFileLeft(t, dir, provided)
		return nil
	}))
}

func TestASignalEndsThePlayground(t *testing.T) {
	t.Parallel()
	command := playgroundBinary(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			startPlayground(t, t.TempDir(), command...).end(signal)
		})
	}
}

// playgroundBinary builds the playground, and returns the command that starts it.
func playgroundBinary(t *testing.T) []string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "playground")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./playground")
	build.Dir = ".."
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	return []string{binary, "-vault=" + os.Getenv("VAULT"), "-plugin=" + os.Getenv("PLUGIN"), "-version=" + w.version}
}

// A playground is a process group in which a playground runs.
type playground struct {
	t       *testing.T
	process *process.Process
	output  *bufio.Reader
	dir     string // the working directory
	tmp     string // the directory for temporary files
	marker  string // a variable in the environment of all its processes

	printed  string
	commands []string // to try
	environ  []string // of a person who has run the first command
}

// startPlayground runs a command that starts a playground, and waits until it has printed what to
// try.
func startPlayground(t *testing.T, dir string, command ...string) *playground {
	t.Helper()
	// The path of t.TempDir is too long: it is part of the paths of sockets.
	tmp, err := os.MkdirTemp(os.Getenv("GOTMPDIR"), "") //nolint:usetesting // see above
	require.NoError(t, err)
	output, stdout, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, output.Close()) })

	p := &playground{t: t, dir: dir, output: bufio.NewReader(output), tmp: tmp, marker: "PLAYGROUND_TEST=" + tmp}
	cmd := exec.CommandContext(context.Background(), command[0], command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stdout, stdout
	cmd.Env = append(readersEnvironment(t, w.server), "TMPDIR="+tmp, p.marker)
	p.process, err = process.Start(cmd)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.process.Stop() }) // if the test fails
	require.NoError(t, stdout.Close())

	var printed strings.Builder
	for line := ""; !strings.HasPrefix(line, "Ctrl-C ends"); {
		line, err = p.output.ReadString('\n')
		printed.WriteString(line)
		require.NoError(t, err, "%s", &printed)
		if command, isCommand := strings.CutPrefix(line, "$ "); isCommand {
			p.commands = append(p.commands, strings.TrimSpace(command))
		}
	}
	p.printed = printed.String()
	require.NotEmpty(t, p.commands, p.printed)
	p.environ = readersEnvironment(t, w.server)
	environ, err := p.run(p.commands[0] + " && env -0")
	require.NoError(t, err)
	p.environ, p.commands = strings.Split(strings.TrimSuffix(environ, "\x00"), "\x00"), p.commands[1:]
	return p
}

// run runs a command as a person does in another terminal.
func (p *playground) run(command string) (output string, err error) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "bash", "-c", command)
	cmd.Dir, cmd.Env = p.dir, p.environ
	text, err := cmd.CombinedOutput()
	p.t.Logf("$ %s\n%s", command, text)
	return string(text), err
}

// addKubernetes adds the auth method for Kubernetes if the server is built without it, and the files
// of a cluster.
func (p *playground) addKubernetes() {
	p.t.Helper()
	startAPIServer(p.t).writeFiles(p.t, p.dir)
	if method := os.Getenv("KUBERNETES_AUTH"); method != "" {
		_, err := p.run("method=" + method + `; install "$method" "$VAULT_PLUGIN_DIR"/kubernetes &&
			vault plugin register -sha256="$(sha256sum "$method" | cut -d' ' -f1)" auth kubernetes`)
		require.NoError(p.t, err)
	}
}

// end sends a signal to the process group, as a terminal does, and calls assertEnded.
func (p *playground) end(signal syscall.Signal) {
	p.t.Helper()
	require.NotEmpty(p.t, p.processes())
	require.NoError(p.t, syscall.Kill(-p.process.ID(), signal))
	p.assertEnded()
}

// assertEnded waits for the end of the playground. It fails the test if a process or a file is left.
func (p *playground) assertEnded() {
	p.t.Helper()
	output, err := io.ReadAll(p.output)
	require.NoError(p.t, err)
	assert.Contains(p.t, string(output), "The server and the vendors are stopped, and all files are removed.")
	// The guard of the processes is the last to end.
	require.Eventually(p.t, func() bool { return len(p.processes()) == 0 }, patience, 50*time.Millisecond, "processes are left")
	left, err := os.ReadDir(p.tmp)
	require.NoError(p.t, err)
	assert.Empty(p.t, left, "files are left")
	for _, name := range customer.Files {
		assert.NoFileExists(p.t, filepath.Join(p.dir, name))
	}
}

// processes returns the folders in /proc of the processes whose environment has the marker.
func (p *playground) processes() (marked []string) {
	p.t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(p.t, err)
	for _, path := range environs {
		// A process may have ended, or belong to another user.
		if environ, err := os.ReadFile(path); err == nil && bytes.Contains(environ, []byte(p.marker)) {
			marked = append(marked, filepath.Dir(path))
		}
	}
	return marked
}

// lineWith returns the first line of a text that contains a part.
func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}
