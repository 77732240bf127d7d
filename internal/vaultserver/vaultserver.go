// Package vaultserver runs a real Vault (or OpenBao) server on a free loopback port,
// for the end-to-end tests and the demo.
package vaultserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// RootToken is the root token of a server in dev mode.
const RootToken = "root"

// stopTimeout is how long a server has to end by itself.
const stopTimeout = 15 * time.Second

// A Server is a process that this one started.
type Server struct {
	// Address is its URL.
	Address string

	// PluginDir is where plugins are put that it may run.
	PluginDir string

	binary string
	dir    string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has ended
}

// StartDev starts a server in dev mode: unsealed, in memory, with RootToken. Its
// output goes to log.
func StartDev(ctx context.Context, binary string, log io.Writer) (*Server, error) {
	dir, err := os.MkdirTemp("", "tokenbroker-")
	if err != nil {
		return nil, err
	}
	// Vault takes no plugin directory with a symbolic link in its path.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	s := &Server{binary: binary, dir: dir, PluginDir: filepath.Join(dir, "plugins")}
	if err := s.start(ctx, log); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, log io.Writer) error {
	if err := os.Mkdir(s.PluginDir, 0o700); err != nil {
		return err
	}
	config := filepath.Join(s.dir, "config.hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, "plugin_directory = %q\n", s.PluginDir), 0o600); err != nil {
		return err
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	listen := net.JoinHostPort("127.0.0.1", port)
	s.Address = "http://" + listen
	// It ends by Stop, in order, and not with the context.
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), s.binary, "server", "-dev", "-dev-no-store-token",
		"-dev-root-token-id="+RootToken, "-dev-listen-address="+listen, "-config="+config)
	s.cmd.Dir = s.dir
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// In a process group of its own, so that Ctrl-C reaches whoever started it first.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return fmt.Errorf("cannot start the server: %w", err)
	}
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		// How it ended stands in its log.
		_ = s.cmd.Wait()
	}()
	return s.awaitReady(ctx)
}

func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Address+"/v1/sys/health", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.ended:
			return errors.New("the server ended as it started")
		case <-ctx.Done():
			return errors.New("the server is not ready after a minute")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Command is the server's own command-line client, pointed at the server with a
// token.
func (s *Server) Command(ctx context.Context, token string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), s.Env(token)...)
	return cmd
}

// Env is the environment that points a client at the server, and keeps it from
// using the settings of whoever runs this.
func (s *Server) Env(token string) []string {
	return []string{
		"HOME=" + s.dir,
		"VAULT_ADDR=" + s.Address, "VAULT_TOKEN=" + token, "VAULT_NAMESPACE=", "VAULT_FORMAT=", "VAULT_CLI_NO_COLOR=1",
		"BAO_ADDR=" + s.Address, "BAO_TOKEN=" + token, "BAO_NAMESPACE=", "BAO_FORMAT=", "BAO_CLI_NO_COLOR=1",
	}
}

// InstallPlugin puts a plugin's binary where the server may run it.
func (s *Server) InstallPlugin(path string) error {
	binary, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.PluginDir, filepath.Base(path)), binary, 0o700)
}

// Dir is a directory that goes away with the server.
func (s *Server) Dir() string { return s.dir }

// PID is the server's process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Stop ends the server, and with it its plugins, and removes what it left.
func (s *Server) Stop() error {
	var err error
	if s.cmd != nil {
		err = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.ended:
			err = nil
		case <-time.After(stopTimeout):
			err = errors.Join(err, s.cmd.Process.Kill())
			<-s.ended
		}
		s.cmd = nil
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func freePort(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}
