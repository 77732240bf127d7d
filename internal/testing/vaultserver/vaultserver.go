// Package vaultserver runs a real Vault (or OpenBao) server on a free loopback port,
// for the end-to-end tests and the demo.
package vaultserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// RootToken is the root token of a server in dev mode.
const RootToken = "root"

// A Server is a Vault or OpenBao server in a child process.
type Server struct {
	// Address is the URL of the server.
	Address string

	// Token is the root token.
	Token string

	// PluginDir is the plugin directory of the server.
	PluginDir string

	// IsOpenBao reports whether the server is OpenBao.
	IsOpenBao bool

	binary    string
	environ   []string // added to the inherited environment
	dir       string
	ports     *ports
	log       io.Writer
	args      []string
	unsealKey string          // empty in dev mode
	member    bool            // part of a cluster: a standby is ready too
	started   func(group int) // called with each process group of the server; may be nil

	process *process.Process // nil if the server does not run
	past    []int            // process groups of earlier runs
}

// startAttempts is how often a server is started that ends before it is ready. Each attempt uses
// other ports, because another process may take a port just before the server does.
const startAttempts = 3

// errEnded is returned for a server that ends before it is ready.
var errEnded = errors.New("the server ended as it started")

// StartDev starts a server in dev mode: unsealed, with storage in memory and with RootToken. Its
// output goes to log. environ (NAME=value) is added to its environment, which its plugins
// inherit. The server does not inherit VAULT_ and BAO_ variables of this process.
func StartDev(ctx context.Context, binary string, log io.Writer, environ ...string) (*Server, error) {
	return startNew(ctx, binary, log, environ, (*Server).startDev)
}

// StartRaft starts a server with integrated (raft) storage on disk, initialized and unsealed.
// The parameters are those of StartDev.
func StartRaft(ctx context.Context, binary string, log io.Writer, environ ...string) (*Server, error) {
	return startNew(ctx, binary, log, environ, (*Server).startRaft)
}

// StartDevWith returns StartDev for a server with another plugin directory, which need not exist yet.
func StartDevWith(pluginDir string) func(ctx context.Context, binary string, log io.Writer, environ ...string) (*Server, error) {
	return func(ctx context.Context, binary string, log io.Writer, environ ...string) (*Server, error) {
		return startNew(ctx, binary, log, environ, func(s *Server, ctx context.Context) error {
			s.PluginDir = pluginDir
			return s.startDev(ctx)
		})
	}
}

func startNew(ctx context.Context, binary string, log io.Writer, environ []string, start func(*Server, context.Context) error) (*Server, error) {
	return attempt(func() (*Server, error) {
		s, err := prepare(ctx, binary, log, environ)
		if err != nil {
			return nil, err
		}
		if err := start(s, ctx); err != nil {
			return nil, errors.Join(err, s.Stop())
		}
		return s, nil
	})
}

// attempt calls start again, up to startAttempts times, while it fails with errEnded.
func attempt[T any](start func() (T, error)) (started T, err error) {
	for range startAttempts {
		if started, err = start(); !errors.Is(err, errEnded) {
			break
		}
	}
	return started, err
}

func (s *Server) startDev(ctx context.Context) error {
	s.Token = RootToken
	s.args = []string{"-dev", "-dev-no-store-token", "-dev-root-token-id=" + RootToken, "-dev-listen-address=" + s.ports.listen}
	if err := s.configure(ctx, "plugin_directory = %q\n", s.PluginDir); err != nil {
		return err
	}
	return s.Start(ctx)
}

func (s *Server) startRaft(ctx context.Context) error {
	if err := s.configureRaft(ctx, "node", s.ports.cluster, 1); err != nil {
		return err
	}
	return s.initialize(ctx)
}

// configureRaft configures raft storage. Peers reach the server at the address cluster, which
// leads to the port after that of its listener. patience is the performance_multiplier, which
// scales the timeouts of elections.
func (s *Server) configureRaft(ctx context.Context, node, cluster string, patience int) error {
	storage := filepath.Join(s.dir, "raft")
	if err := os.Mkdir(storage, 0o700); err != nil {
		return err
	}
	return s.configure(ctx, `
plugin_directory = %q
disable_mlock    = true
api_addr         = %q
cluster_addr     = "http://%s"
storage "raft" {
  path                   = %q
  node_id                = %q
  performance_multiplier = %d
}
listener "tcp" {
  address     = %q
  tls_disable = true
}
`, s.PluginDir, s.Address, cluster, storage, node, patience, s.ports.listen)
}

// initialize starts a server with empty storage, and initializes and unseals it.
func (s *Server) initialize(ctx context.Context) error {
	client, err := s.awake(ctx)
	if err != nil {
		return err
	}
	keys, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.Token, s.unsealKey = keys.RootToken, keys.Keys[0]
	return s.ready(ctx)
}

// awake starts a server, which may be uninitialized, and waits until it answers.
func (s *Server) awake(ctx context.Context) (*api.Client, error) {
	if err := s.launch(); err != nil {
		return nil, err
	}
	client, err := s.Client()
	if err != nil {
		return nil, err
	}
	return client, s.await(ctx, func() bool { _, err := client.Sys().InitStatusWithContext(ctx); return err == nil })
}

// prepare creates the folders of a server and reserves its ports.
func prepare(ctx context.Context, binary string, log io.Writer, environ []string) (*Server, error) {
	dir, err := os.MkdirTemp("", "tokenbroker-")
	if err != nil {
		return nil, err
	}
	if err := process.RemoveAtExit(dir); err != nil {
		return nil, err
	}
	// Vault rejects a plugin directory with a symbolic link in its path.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	ports, err := reservePorts(ctx)
	if err != nil {
		return nil, err
	}
	return &Server{
		Address: "http://" + ports.listen, PluginDir: filepath.Join(dir, "plugins"),
		binary: binary, environ: environ, dir: dir, ports: ports, log: log,
	}, os.Mkdir(filepath.Join(dir, "plugins"), 0o700)
}

func (s *Server) configure(ctx context.Context, format string, args ...any) error {
	config := filepath.Join(s.dir, "config.hcl")
	s.args = append(s.args, "-config="+config)
	text := fmt.Appendf(nil, format, args...)
	version, err := exec.CommandContext(ctx, s.binary, "version").Output()
	if err != nil {
		return fmt.Errorf("%s version: %w", s.binary, err)
	}
	if s.IsOpenBao = bytes.HasPrefix(version, []byte("OpenBao")); s.IsOpenBao {
		// By default, OpenBao's API cannot create audit devices.
		text = append(text, "unsafe_allow_api_audit_creation = true\n"...)
	}
	return os.WriteFile(config, text, 0o600)
}

// Start starts the server, for example after Kill, and unseals it.
func (s *Server) Start(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return err
	}
	return s.ready(ctx)
}

func (s *Server) launch() (err error) {
	// Stop ends the process gracefully; the end of a context would kill it.
	cmd := exec.CommandContext(context.Background(), s.binary, append([]string{"server"}, s.args...)...)
	cmd.Dir = s.dir
	cmd.Env = environment(s.environ...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	s.process, err = process.Start(cmd)
	if err == nil && s.started != nil {
		s.started(s.process.ID())
	}
	return err
}

// Unseal unseals a sealed server.
func (s *Server) Unseal(ctx context.Context) error { return s.ready(ctx) }

// Inherit sets the unseal key and the root token to those of another server, whose snapshot has
// been restored on this one.
func (s *Server) Inherit(of *Server) { s.Token, s.unsealKey = of.Token, of.unsealKey }

// ready waits until the server is ready, and unseals it if necessary.
func (s *Server) ready(ctx context.Context) error {
	client, err := s.Client()
	if err != nil {
		return err
	}
	return s.await(ctx, func() bool {
		health, err := client.Sys().HealthWithContext(ctx)
		if err != nil {
			return false
		}
		if health.Sealed && s.unsealKey != "" {
			_, _ = client.Sys().UnsealWithContext(ctx, s.unsealKey)
			return false
		}
		return health.Initialized && !health.Sealed && (s.member || !health.Standby)
	})
}

// readyTimeout bounds the wait for a server. It is long enough for a busy machine.
const readyTimeout = 5 * time.Minute

func (s *Server) await(ctx context.Context, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for !condition() {
		select {
		case <-s.process.Ended():
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready after %s", readyTimeout)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Client returns an API client with the root token. It ignores the environment.
func (s *Server) Client() (*api.Client, error) {
	client, err := api.NewClient(s.config())
	if err != nil {
		return nil, err
	}
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})         // replaces those of VAULT_NAMESPACE and VAULT_HEADERS
	client.SetWrappingLookupFunc(func(string, string) string { return "" }) // replaces that of VAULT_WRAP_TTL
	client.SetToken(s.Token)
	return client, nil
}

// Kill kills the server, as kill -9 does. Its plugins keep running.
func (s *Server) Kill() error { return s.end((*process.Process).Kill) }

func (s *Server) end(how func(*process.Process) error) error {
	s.past = append(s.past, s.process.ID())
	err := how(s.process)
	s.process = nil
	return err
}

// ID returns the process ID of the server, which must be running.
func (s *Server) ID() int { return s.process.ID() }

// Ended returns a channel that is closed when the server, which must be running, has ended.
func (s *Server) Ended() <-chan struct{} { return s.process.Ended() }

// Plugins returns the process IDs of the server's plugins.
func (s *Server) Plugins() ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var plugins []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // the process has ended
		}
		// pid (comm) state ppid pgrp …; comm may contain spaces and parentheses.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(fields) > 2 && fields[2] == strconv.Itoa(s.process.ID()) && pid != s.process.ID() {
			plugins = append(plugins, pid)
		}
	}
	return plugins, nil
}

// KillPlugins kills the server's plugins, and returns how many there were.
func (s *Server) KillPlugins() (int, error) {
	plugins, err := s.Plugins()
	if err != nil {
		return 0, err
	}
	for killed, pid := range plugins {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return killed, err
		}
		// The entry in /proc disappears when the server notices the end of the plugin. Until
		// then, it sends requests to the killed process.
		path := filepath.Join("/proc", strconv.Itoa(pid))
		for _, err := os.Stat(path); err == nil; _, err = os.Stat(path) {
			time.Sleep(time.Millisecond)
		}
	}
	return len(plugins), nil
}

// Command returns a command of the server's command-line client, with the server's address and
// a token. The client does not retry, because a retry would hide the first failure.
func (s *Server) Command(ctx context.Context, token string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(s.pointing(token), "VAULT_MAX_RETRIES=0", "BAO_MAX_RETRIES=0")
	return cmd
}

// InstallPlugin copies a plugin's binary to the plugin directory.
func (s *Server) InstallPlugin(path string) error {
	binary, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.PluginDir, filepath.Base(path)), binary, 0o700)
}

// Dir returns the directory of the server's files, which Stop removes.
func (s *Server) Dir() string { return s.dir }

// Stop stops the server and its plugins, and removes its files.
func (s *Server) Stop() error {
	var err error
	if s.process != nil {
		err = s.end((*process.Process).Stop)
	}
	// Plugins of a killed server may still run.
	for _, group := range s.past {
		process.KillGroup(group)
	}
	s.ports.release()
	return errors.Join(err, os.RemoveAll(s.dir))
}
