package vaultserver

import (
	"context"
	"errors"
	"io"
	"os/exec"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// An Agent is a Vault Agent or a Vault Proxy, run from the binary of the server.
type Agent struct{ process *process.Process }

// StartAgent runs the server's binary with args, which begin with "agent" or "proxy", in the
// directory dir. The environment has the address of the server, and an empty token. The output
// goes to log.
func (s *Server) StartAgent(dir string, log io.Writer, args ...string) (*Agent, error) {
	// Stop ends the process gracefully; the end of a context would kill it.
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

// Ended returns a channel that is closed when the Agent has ended.
func (a *Agent) Ended() <-chan struct{} { return a.process.Ended() }

// Stop stops the Agent. If a process that the Agent supervises still runs after that, Stop kills
// it and returns an error.
func (a *Agent) Stop() error {
	err := a.process.Stop()
	if process.KillGroup(a.process.ID()) {
		err = errors.Join(err, errors.New("a process outlived its Agent"))
	}
	return err
}
