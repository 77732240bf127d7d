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

// A Server is a process that this one started.
type Server struct {
	// Address is its URL.
	Address string

	// Token is its root token.
	Token string

	// PluginDir is where plugins are put that it may run.
	PluginDir string

	// IsOpenBao is whether it is OpenBao's, and not Vault.
	IsOpenBao bool

	binary    string
	environ   []string // added to what it inherits
	dir       string
	ports     *ports
	log       io.Writer
	args      []string
	unsealKey string          // empty in dev mode
	member    bool            // of a cluster, where a standby serves too
	started   func(group int) // is told of each process that it has been; may be nil

	process *process.Process // nil if it does not run
	past    []int            // process groups of servers that have ended
}

// startAttempts is how often a new server is started that ends before it serves, each time
// on other ports: somebody else may take a port in the moment before the server does.
const startAttempts = 3

// errEnded is why a server is not ready that has ended.
var errEnded = errors.New("the server ended as it started")

// StartDev starts a server in dev mode: unsealed, in memory, with RootToken. Its
// output goes to log; environ, of the form NAME=value, is added to its environment,
// and so to that of its plugins. Of this process it inherits no VAULT_ and no BAO_.
func StartDev(ctx context.Context, binary string, log io.Writer, environ ...string) (*Server, error) {
	return startNew(ctx, binary, log, environ, (*Server).startDev)
}

// StartRaft starts a server with raft storage on disk, initialized and unsealed.
func StartRaft(ctx context.Context, binary string, log io.Writer, environ ...string) (*Server, error) {
	return startNew(ctx, binary, log, environ, (*Server).startRaft)
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

// attempt starts servers until they serve, or fail in another way than that one ended as
// it started.
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

// configureRaft is for a server that its peers reach at an address, by way of which
// comes to the port after that of its listener. In elections, peers are given so many
// seconds to be heard of.
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

// initialize starts a server whose storage is empty.
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

// awake starts a server that may have no storage yet, and waits until it answers.
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

// prepare makes what a server needs before it is configured.
func prepare(ctx context.Context, binary string, log io.Writer, environ []string) (*Server, error) {
	dir, err := os.MkdirTemp("", "tokenbroker-")
	if err != nil {
		return nil, err
	}
	if err := process.RemoveAtExit(dir); err != nil {
		return nil, err
	}
	// Vault takes no plugin directory with a symbolic link in its path.
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
		// Which makes an audit device by its API only if it is told to.
		text = append(text, "unsafe_allow_api_audit_creation = true\n"...)
	}
	return os.WriteFile(config, text, 0o600)
}

// Start starts the server, again if it has been killed, and unseals it.
func (s *Server) Start(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return err
	}
	return s.ready(ctx)
}

func (s *Server) launch() (err error) {
	// It ends by Stop, in order, and not with a context.
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

// Unseal unseals a server that has been sealed.
func (s *Server) Unseal(ctx context.Context) error { return s.ready(ctx) }

// Inherit gives the server the keys and the root token of another, whose snapshot it has
// been given.
func (s *Server) Inherit(of *Server) { s.Token, s.unsealKey = of.Token, of.unsealKey }

// ready waits for the server to serve, and unseals it if need be.
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

// readyTimeout bounds the wait for a server. It is long, for a busy machine.
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

// Client is a client of the server's API with its root token.
func (s *Server) Client() (*api.Client, error) {
	client, err := api.NewClient(s.config())
	if err != nil {
		return nil, err
	}
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})         // and none of VAULT_NAMESPACE or VAULT_HEADERS
	client.SetWrappingLookupFunc(func(string, string) string { return "" }) // nor VAULT_WRAP_TTL
	client.SetToken(s.Token)
	return client, nil
}

// Kill ends the server at once, as kill -9 does. Its plugins are left as they are.
func (s *Server) Kill() error { return s.end((*process.Process).Kill) }

func (s *Server) end(how func(*process.Process) error) error {
	s.past = append(s.past, s.process.ID())
	err := how(s.process)
	s.process = nil
	return err
}

// ID is the server's process ID, while it runs.
func (s *Server) ID() int { return s.process.ID() }

// Plugins are the process IDs of the server's plugins.
func (s *Server) Plugins() ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var plugins []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (comm) state ppid pgrp …; the name may hold anything.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(fields) > 2 && fields[2] == strconv.Itoa(s.process.ID()) && pid != s.process.ID() {
			plugins = append(plugins, pid)
		}
	}
	return plugins, nil
}

// KillPlugins ends the server's plugins at once, and says how many there were.
func (s *Server) KillPlugins() (int, error) {
	plugins, err := s.Plugins()
	if err != nil {
		return 0, err
	}
	for killed, pid := range plugins {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return killed, err
		}
		// Until the server has noticed, it sends requests to where nobody is.
		path := filepath.Join("/proc", strconv.Itoa(pid))
		for _, err := os.Stat(path); err == nil; _, err = os.Stat(path) {
			time.Sleep(time.Millisecond)
		}
	}
	return len(plugins), nil
}

// Command is the server's own command-line client, pointed at the server with a
// token. It tries once: a second try would hide how the first failed.
func (s *Server) Command(ctx context.Context, token string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(s.pointing(token), "VAULT_MAX_RETRIES=0", "BAO_MAX_RETRIES=0")
	return cmd
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

// Stop ends the server, and with it its plugins, and removes what it left.
func (s *Server) Stop() error {
	var err error
	if s.process != nil {
		err = s.end((*process.Process).Stop)
	}
	// Plugins outlive a server that was killed.
	for _, group := range s.past {
		process.KillGroup(group)
	}
	s.ports.release()
	return errors.Join(err, os.RemoveAll(s.dir))
}
