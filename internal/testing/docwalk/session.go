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

// stopTimeout is how long what a page left running has to end by itself.
const stopTimeout = time.Minute

// loop is a shell that is told which files to source, and replies how each ended and
// which process was last put into the background.
const loop = `
set -o pipefail
while read -r walk; do
	source "$walk" >"$walk.out" 2>&1 </dev/null
	echo "$? 0$!"
done
kill $(jobs -p)
wait
`

// session is one shell in which commands run one after the other, so that each sees
// the variables that another has set.
type session struct {
	cmd     *exec.Cmd
	process *process.Process
	tell    io.WriteCloser
	replies *bufio.Scanner
	scripts string // the directory of the commands
	count   int    // of the commands so far
}

// startSession starts a shell in a directory. It is killed when ctx ends.
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
	// A shell that ends before it is told to gives no reply.
	s.process, err = process.Start(s.cmd)
	return err
}

// result is how a command ended.
type result struct {
	status  int
	process int    // that was last put into the background, or 0
	printed string // the file of what it prints
}

// output is what the command has printed so far.
func (r *result) output() string {
	output, err := os.ReadFile(r.printed)
	if err != nil {
		return err.Error()
	}
	return string(output)
}

var errNoReply = errors.New("it ended the shell, or was itself ended for taking too long")

// run runs a command, and comes back when it has ended or is in the background.
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

// stop ends the session, and with it what runs in the background.
func (s *session) stop() (err error) {
	// The shell may have ended, and its input with it.
	_ = s.tell.Close()
	select {
	case <-s.process.Ended():
	case <-time.After(stopTimeout):
		err = fmt.Errorf("what runs in the background has not ended within %s", stopTimeout)
	}
	// Among the rest is what the shell no longer knows of; most often there is none.
	process.KillGroup(s.process.ID())
	<-s.process.Ended()
	return errors.Join(err, os.RemoveAll(s.scripts))
}
