// Package process runs the servers and Agents of the end-to-end tests and the demo.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// stopTimeout is how long Stop waits before it kills the process.
const stopTimeout = time.Minute

// A Process is a child process.
type Process struct {
	cmd   *exec.Cmd
	name  string        // of the program
	ended chan struct{} // closed when the process has ended
}

// Start starts a command in its own process group, so that Ctrl-C reaches only this process,
// which then stops the command. When this process ends, even by kill -9, the guard kills the
// group.
func Start(cmd *exec.Cmd) (*Process, error) {
	if _, err := guard(); err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &Process{cmd: cmd, name: cmd.Path, ended: make(chan struct{})}
	release, err := startHeld(cmd)
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	defer func() { _ = release.Close() }() // a process that was not released ends
	if err := tellGuard("end", p.ID()); err != nil {
		return nil, err
	}
	if _, err := release.WriteString("\n"); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	go func() {
		defer close(p.ended)
		// The log of the process shows how it ended.
		_ = cmd.Wait()
		if errors.Is(syscall.Kill(-p.ID(), 0), syscall.ESRCH) {
			forget(p.ID())
		}
	}()
	return p, nil
}

// startHeld starts a command that runs its program when a line is written to release. If release is closed without
// one, as when this process is killed, the command ends: the guard does not have it yet, so nothing else would end it.
func startHeld(cmd *exec.Cmd) (release *os.File, err error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	held, release, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = held.Close() }() // the command has its own
	shell, err := exec.LookPath("sh")
	if err != nil {
		return nil, errors.Join(err, release.Close())
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, held)
	script := fmt.Sprintf(`read -r line <&%[1]d && exec %[1]d<&- && exec "$@"`, 2+len(cmd.ExtraFiles))
	cmd.Args = append([]string{"sh", "-c", script, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = shell
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, release.Close())
	}
	return release, nil
}

// ID returns the process ID, which is also the ID of the process group.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// Ended returns a channel that is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Kill kills the process, as kill -9 does, and waits for its end. The processes that it started
// keep running.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	return err
}

// Stop sends SIGTERM and waits for the end of the process. It kills the process after a minute.
func (p *Process) Stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(err, p.Kill())
	}
}

// StopGroup sends SIGTERM to the process and to those that it started, and waits for the end of all of them. It kills those
// that are left after a minute.
func (p *Process) StopGroup() error {
	_ = syscall.Kill(-p.ID(), syscall.SIGTERM) // if it has ended, the group is empty
	for end := time.Now().Add(stopTimeout); syscall.Kill(-p.ID(), 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			KillGroup(p.ID())
			return fmt.Errorf("%s did not end within %s", p.name, stopTimeout)
		}
	}
	<-p.ended
	return nil
}

// KillGroup kills the processes of a group, and reports whether there were any.
func KillGroup(id int) bool {
	killed := syscall.Kill(-id, syscall.SIGKILL) == nil
	forget(id)
	return killed
}

// forget tells the guard not to kill a process group that is empty, because the kernel may reuse
// its ID. The guard runs until this process ends, so the write cannot fail.
func forget(group int) { _ = tellGuard("forget", group) }
