package docwalk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// stopTimeout is how long the background commands of a page may take to end.
const stopTimeout = time.Minute

// loop is a shell script that reads names of files and sources each. It prints the exit status
// and the ID of the last background process after each.
const loop = `
set -o pipefail
while read -r walk; do
	source "$walk" >"$walk.out" 2>&1 </dev/null
	echo "$? 0$!"
done
kill $(jobs -p)
wait
`

// A session is a shell that runs the commands of a page one after the other, so that they share
// variables.
type session struct {
	cmd     *exec.Cmd
	process *process.Process
	tell    io.WriteCloser
	replies *bufio.Scanner
	scripts string // directory of the files with the commands
	count   int    // number of commands so far
}

// startSession starts a shell in a directory. The end of ctx kills it.
func startSession(ctx context.Context, dir string, env []string) (*session, error) {
	scripts, err := os.MkdirTemp("", "docwalk-")
	if err != nil {
		return nil, err
	}
	s := &session{scripts: scripts}
	s.cmd = exec.CommandContext(ctx, "bash", "--noprofile", "--norc", "-c", loop)
	s.cmd.Dir, s.cmd.Env = dir, env
	s.cmd.Cancel = func() error { return syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) }
	if err := errors.Join(process.RemoveAtExit(scripts), s.start()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(scripts))
	}
	return s, nil
}

func (s *session) start() (err error) {
	if s.tell, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	replies, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.replies = bufio.NewScanner(replies)
	// If the shell ends too early, the next read of a reply fails.
	s.process, err = process.Start(s.cmd)
	return err
}

// A result is the result of a command.
type result struct {
	status  int
	process int    // ID of the last background process, or 0
	printed string // file with the output
}

// output returns what the command has printed so far.
func (r *result) output() string {
	output, err := os.ReadFile(r.printed)
	if err != nil {
		return err.Error()
	}
	return string(output)
}

var errNoReply = errors.New("the command ended the shell, or timed out")

// run runs a command, and returns when the command has ended or is in the background.
func (s *session) run(command string) (*result, error) {
	s.count++
	script := filepath.Join(s.scripts, strconv.Itoa(s.count))
	r := &result{printed: script + ".out"}
	if err := os.WriteFile(script, []byte(command), 0o600); err != nil {
		return r, err
	}
	if _, err := fmt.Fprintln(s.tell, script); err != nil || !s.replies.Scan() {
		return r, errNoReply
	}
	_, err := fmt.Sscanf(s.replies.Text(), "%d %d", &r.status, &r.process)
	return r, err
}

// stop ends the shell and its background commands, and removes their files.
func (s *session) stop() (err error) {
	// The shell may have ended already, so ignore an error.
	_ = s.tell.Close()
	select {
	case <-s.process.Ended():
	case <-time.After(stopTimeout):
		err = fmt.Errorf("the background commands did not end within %s", stopTimeout)
	}
	// Kill processes that the shell no longer knows; usually there are none.
	process.KillGroup(s.process.ID())
	<-s.process.Ended()
	return errors.Join(err, os.RemoveAll(s.scripts))
}
