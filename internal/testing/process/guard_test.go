package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The owner is a second process of this test binary. It starts a process, which prints a line
// when it runs. That process and its child both hold the pipe, so the end of the pipe shows that
// both have ended.
func TestChildrenEndWithTheProcessThatStartedThem(t *testing.T) {
	if folder := os.Getenv("GUARDED_FOLDER"); folder != "" {
		own(t, folder)
		return
	}
	// A background job of a script ignores these signals, and its children inherit that. A
	// signal that this process catches has its default effect in the children.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(caught)
	for name, end := range map[string]syscall.Signal{
		"Ctrl-C": syscall.SIGINT, "kill": syscall.SIGTERM, "a closed terminal": syscall.SIGHUP,
		"kill -9": syscall.SIGKILL, "go test's limit": syscall.SIGQUIT,
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "a folder")
			require.NoError(t, os.Mkdir(folder, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(folder, "file"), nil, 0o600))
			reader, writer, err := os.Pipe()
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, reader.Close()) })
			owner := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildrenEndWithTheProcessThatStartedThem$")
			owner.Env = append(os.Environ(), "GUARDED_FOLDER="+folder)
			owner.Stdout = writer
			require.NoError(t, owner.Start())
			require.NoError(t, writer.Close())
			lines := bufio.NewReader(reader)
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "started\n", line)

			require.NoError(t, owner.Process.Signal(end))
			require.Error(t, owner.Wait(), "the signal ends it")
			require.NoError(t, reader.SetReadDeadline(time.Now().Add(5*time.Minute)))
			_, err = io.ReadAll(lines)
			require.NoError(t, err, "every process with the pipe has ended")
			require.Eventually(t, func() bool { _, err := os.Stat(folder); return os.IsNotExist(err) }, time.Minute, 10*time.Millisecond, "the folder is removed")
		})
	}
}

// own starts a process that has a child, and waits for a signal.
func own(t *testing.T, folder string) {
	t.Helper()
	require.NoError(t, RemoveAtExit(folder))
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "trap '' INT TERM HUP; sleep 1d & echo started; wait")
	cmd.Stdout = os.Stdout
	_, err := Start(cmd)
	require.NoError(t, err)
	select {}
}

func TestTheGuardWatchesAGroupUntilItHasEnded(t *testing.T) {
	var sent strings.Builder
	real := guard
	guard = func() (io.Writer, error) { return &sent, nil }
	t.Cleanup(func() { guard = real })

	child, err := Start(exec.CommandContext(t.Context(), "true"))
	require.NoError(t, err)
	<-child.Ended()
	assert.Equal(t, fmt.Sprintf("end %d\nforget %[1]d\n", child.ID()), sent.String())

	sent.Reset()
	parent, err := Start(exec.CommandContext(t.Context(), "bash", "-c", "sleep 1d & true"))
	require.NoError(t, err)
	<-parent.Ended()
	assert.Equal(t, fmt.Sprintf("end %d\n", parent.ID()), sent.String(), "its child still runs")
	assert.True(t, KillGroup(parent.ID()))
	assert.Equal(t, fmt.Sprintf("end %d\nforget %[1]d\n", parent.ID()), sent.String())
}

func TestTheGuardDoesNotKillAForgottenGroup(t *testing.T) {
	shell := exec.CommandContext(t.Context(), "bash", "-c", `kill() { echo "$@"; }`+guardScript)
	shell.Stdin = strings.NewReader("end 1001\nend 1002\nforget 1001\n")
	output, err := shell.CombinedOutput()
	require.NoError(t, err, string(output))
	assert.Equal(t, "-KILL -- -1002\n", string(output))
}

// A starter that ends before it has told the guard leaves nothing behind.
func TestACommandDoesNotRunBeforeTheGuardHasIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	cmd := exec.CommandContext(t.Context(), "touch", file)
	release, err := startHeld(cmd)
	require.NoError(t, err)
	require.NoError(t, release.Close())
	require.Error(t, cmd.Wait())
	require.NoFileExists(t, file)
}
