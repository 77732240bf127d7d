// Package process runs the servers and agents of the end-to-end tests and the demo.
package process

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// stopTimeout is how long a process has to end by itself.
const stopTimeout = time.Minute

// A Process is one that this one started.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
}

// Start starts a command in a process group of its own, with those that it starts, so
// that Ctrl-C reaches whoever started it first. What is left of the group when this
// process ends, however it does, ends with it.
func Start(cmd *exec.Cmd) (*Process, error) {
	if _, err := guard(); err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", cmd.Path, err)
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	if err := tellGuard("end", p.ID()); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill())
	}
	go func() {
		defer close(p.ended)
		// How it ended stands in its log.
		_ = cmd.Wait()
		if errors.Is(syscall.Kill(-p.ID(), 0), syscall.ESRCH) {
			forget(p.ID())
		}
	}()
	return p, nil
}

// ID is its process ID, and that of its group.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// Ended is closed when it has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Kill ends it at once, as kill -9 does, and leaves those that it started.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	return err
}

// Stop has it end in order, or at once if it does not.
func (p *Process) Stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(err, p.Kill())
	}
}

// KillGroup ends what is left of a process group at once, and says whether anything
// was.
func KillGroup(id int) bool {
	killed := syscall.Kill(-id, syscall.SIGKILL) == nil
	forget(id)
	return killed
}

// forget has the guard leave alone a process group that is empty, whose ID the kernel may
// give to another. The guard's input ends with this process only, so it cannot fail.
func forget(group int) { _ = tellGuard("forget", group) }
