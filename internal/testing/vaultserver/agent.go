package vaultserver

import (
	"context"
	"errors"
	"io"
	"os/exec"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// An Agent is a Vault Agent or a Vault Proxy: a process of the server's own binary
// that logs in by itself.
type Agent struct{ process *process.Process }

// StartAgent starts `vault agent` or `vault proxy` with the arguments that follow, in
// a directory, pointed at the server and without a token. Its output goes to log.
func (s *Server) StartAgent(dir string, log io.Writer, args ...string) (*Agent, error) {
	// It ends by Stop, in order, and not with a context.
	cmd := exec.CommandContext(context.Background(), s.binary, args...)
	cmd.Dir = dir
	cmd.Env = s.pointing("")
	cmd.Stdout, cmd.Stderr = log, log
	p, err := process.Start(cmd)
	if err != nil {
		return nil, err
	}
	return &Agent{p}, nil
}

// Ended is closed when it has ended.
func (a *Agent) Ended() <-chan struct{} { return a.process.Ended() }

// Stop ends it. It is an error if the process that it supervises does not end with
// it; that is killed then.
func (a *Agent) Stop() error {
	err := a.process.Stop()
	if process.KillGroup(a.process.ID()) {
		err = errors.Join(err, errors.New("a process outlived its Agent"))
	}
	return err
}
