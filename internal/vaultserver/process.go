package vaultserver

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// stopTimeout is how long a process has to end by itself.
const stopTimeout = 15 * time.Second

// process is one that this one started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
}

func launch(cmd *exec.Cmd) (*process, error) {
	// In a process group of its own, with those that it starts, so that Ctrl-C reaches
	// whoever started it first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		// How it ended stands in its log.
		_ = cmd.Wait()
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends it at once, as kill -9 does, and leaves those that it started.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	return err
}

// stop has it end in order, or at once if it does not.
func (p *process) stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(err, p.kill())
	}
}

// killGroup ends what is left of a process group at once, and says whether anything
// was.
func killGroup(pid int) bool { return syscall.Kill(-pid, syscall.SIGKILL) == nil }
