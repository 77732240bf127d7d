// Package parts tests how `make test` runs its parts.
package parts

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// all returns a command that runs all.sh in a temporary folder, with the script fakeMake
// instead of make.
func all(t *testing.T, fakeMake string) (cmd *exec.Cmd, dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "tools", "parts"), os.DirFS(".")))
	path := filepath.Join(dir, "make")
	require.NoError(t, os.WriteFile(path, []byte("#!/usr/bin/env bash\n"+fakeMake), 0o700))
	cmd = exec.CommandContext(t.Context(), "bash", "tools/parts/all.sh")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MAKE="+path, "JOBS=3", "TOOLS=vault tofu", "PARTS=timed/unit timed/dist timed/lint", "NEEDS_TOOLS=timed/dist")
	return cmd, dir
}

// Every process inherits descriptor 3, as it does that of make's jobserver, so its end shows
// that all have ended.
func TestASignalEndsAllProcesses(t *testing.T) {
	// A background job of a script ignores these signals, and its children inherit that. A
	// signal that this process catches has its default effect in the children.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(caught)
	for _, sent := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sent.String(), func(t *testing.T) {
			cmd, _ := all(t, `case "$*" in *tofu) exit 0 ;; esac; echo started >&3; sleep 600; true`)
			reader, writer, err := os.Pipe()
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, reader.Close()) })
			cmd.ExtraFiles = []*os.File{writer}
			require.NoError(t, cmd.Start())
			require.NoError(t, writer.Close())
			lines := bufio.NewReader(reader)
			for range 2 { // the end-to-end tests and the parts
				line, err := lines.ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, "started\n", line)
			}

			require.NoError(t, cmd.Process.Signal(sent))
			require.Error(t, cmd.Wait())
			assert.Equal(t, 130, cmd.ProcessState.ExitCode())
			_, err = io.ReadAll(lines)
			require.NoError(t, err, "every process with the descriptor has ended")
		})
	}
}

func TestWithoutToolsOnlyPartsThatNeedNoneRun(t *testing.T) {
	script := `echo "${*: -3}" >>calls; case "$*" in *tofu) exit $BUILT ;; esac`
	for built, targets := range map[string][]string{
		"0": {"timed/e2e", "timed/unit timed/dist timed/lint"},
		"2": {"timed/unit timed/lint"},
	} {
		cmd, dir := all(t, script)
		cmd.Env = append(cmd.Env, "BUILT="+built)
		output, err := cmd.CombinedOutput()
		assert.Equal(t, built == "0", err == nil, string(output))
		calls, err := os.ReadFile(filepath.Join(dir, "calls"))
		require.NoError(t, err)
		var ran []string
		for line := range strings.Lines(string(calls)) {
			if i := strings.Index(line, "timed/"); i >= 0 {
				ran = append(ran, strings.TrimSpace(line[i:]))
			}
		}
		slices.Sort(ran)
		assert.Equal(t, targets, ran)
	}
}

// Go's default limit of 10 minutes is too short for a busy machine.
func TestEveryRunOfGoTestHasTheLimit(t *testing.T) {
	scripts, err := filepath.Glob("../*/*.sh")
	require.NoError(t, err)
	runs := 0
	for _, path := range append(scripts, "../../Makefile") {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		for line := range strings.Lines(string(content)) {
			if strings.HasPrefix(line, "#") || !regexp.MustCompile(`\bgo (-C \S+ )?test\b`).MatchString(line) || strings.Contains(line, " test -c ") {
				continue // a comment, or go test -c, which only compiles
			}
			runs++
			assert.Regexp(t, `\$\(LIMIT\)|"\$LIMIT"`, line, path)
		}
	}
	assert.Greater(t, runs, 10)
}
