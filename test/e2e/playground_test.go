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
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

// The commands of the playground work as printed, and so do the README's tutorial and the page about
// an outage in it. Ctrl-C ends it.
func TestThePlaygroundNeedsNoAccount(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	copyRepository(t, root, dir)
	p := startPlayground(t, dir, "make", "--no-print-directory", "playground")

	environ := p.environ()
	run := func(command string) (output string, err error) {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir, cmd.Env = dir, environ
		text, err := cmd.CombinedOutput()
		t.Logf("$ %s\n%s", command, text)
		return string(text), err
	}
	const accessToken, warning = "access_token  ", "the vendor issues no newer token"
	steps := []struct {
		printed string
		fails   bool
	}{
		{printed: accessToken},
		{printed: "kensho is down"},
		{printed: "the cached token stays in use", fails: true},
		{printed: warning},
		{printed: "kensho is up"},
	}
	require.Len(t, p.commands, len(steps))
	var outputs []string
	for i, step := range steps {
		output, err := run(p.commands[i])
		assert.Equal(t, step.fails, err != nil, "%s: %v", p.commands[i], err)
		assert.Contains(t, output, step.printed)
		outputs = append(outputs, output)
	}
	assert.NotContains(t, outputs[0], warning)
	token := lineWith(outputs[0], accessToken)
	assert.NotEmpty(t, token)
	assert.Equal(t, token, lineWith(outputs[3], accessToken), "the read in the outage returns the cached token")
	for _, i := range []int{2, 3} { // a refresh and a read after the outage
		output, err := run(p.commands[i])
		require.NoError(t, err)
		assert.NotContains(t, output, warning)
	}
	for _, vendor := range []string{"sitecore", "oauth2"} {
		output, err := run("vault read playground/" + vendor + "/creds/prod")
		require.NoError(t, err)
		assert.Contains(t, output, accessToken)
	}

	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	_, tutorial, found := strings.Cut(string(readme), "\n## First token\n")
	require.True(t, found)
	tutorial, _, _ = strings.Cut(tutorial, "\n## ")
	page, err := docwalk.Parse("README.md (First token)", []byte(tutorial))
	require.NoError(t, err)
	require.Greater(t, page.Commands(), 5)
	ctx, cancel := context.WithTimeout(t.Context(), pageTime)
	defer cancel()
	require.NoError(t, page.Walk(ctx, dir, environ))
	require.NoError(t, parsePage(t, root, "docs/outage.md").WithoutSetup().Walk(ctx, dir, environ))

	p.end(syscall.SIGINT)
}

func TestASignalEndsThePlayground(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "playground")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./playground")
	build.Dir = ".."
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			p := startPlayground(t, dir, binary, "-vault="+os.Getenv("VAULT"), "-plugin="+os.Getenv("PLUGIN"), "-version="+w.version)
			p.end(signal)
		})
	}
}

// A playground is a process group in which a playground runs.
type playground struct {
	t       *testing.T
	process *process.Process
	output  *bufio.Reader
	tmp     string // the directory for temporary files
	marker  string // a variable in the environment of all its processes

	exports  string   // the command to run first in another terminal
	commands []string // the commands to try
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

	p := &playground{t: t, output: bufio.NewReader(output), tmp: tmp, marker: "PLAYGROUND_TEST=" + tmp}
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
	require.NotEmpty(t, p.commands, "%s", &printed)
	p.exports, p.commands = p.commands[0], p.commands[1:]
	return p
}

// environ returns the environment of a person who has run the first command.
func (p *playground) environ() []string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "bash", "-c", p.exports+" && env -0")
	cmd.Env = readersEnvironment(p.t, w.server)
	output, err := cmd.Output()
	require.NoError(p.t, err)
	return strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
}

// end sends a signal to the process group, as a terminal does. It fails the test if a process or a
// file is left in the end.
func (p *playground) end(signal syscall.Signal) {
	p.t.Helper()
	require.NotEmpty(p.t, p.processes())
	require.NoError(p.t, syscall.Kill(-p.process.ID(), signal))
	output, err := io.ReadAll(p.output)
	require.NoError(p.t, err)
	assert.Contains(p.t, string(output), "The server and the vendors are stopped, and all files are removed.")
	// The guard of the processes is the last to end.
	require.Eventually(p.t, func() bool { return len(p.processes()) == 0 }, patience, 50*time.Millisecond, "processes are left")
	left, err := os.ReadDir(p.tmp)
	require.NoError(p.t, err)
	assert.Empty(p.t, left, "files are left")
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
