// Package stage has what the demo and the playground share: a server with the plugin, its log,
// and the colors of their output.
package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// Context returns a context that a signal to end this program cancels.
func Context() (ctx context.Context, stop context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
}

// A Stage is a server with the plugin in its plugin directory, and its log.
type Stage struct {
	Server *vaultserver.Server
	Binary string    // absolute path of the server's binary
	Client string    // name of the command-line client: vault or bao
	Plugin string    // name of the plugin's file
	Log    io.Writer // of the server
}

// A Starter is vaultserver.StartDev or vaultserver.StartRaft.
type Starter func(ctx context.Context, binary string, log io.Writer, environ ...string) (*vaultserver.Server, error)

// Run starts a server from binary and calls perform with it. environ (NAME=value) is added to the
// server's environment. In the end, Run stops the server and removes its files. The log is left if
// perform fails before ctx has ended; name is part of the log's file name.
func Run(ctx context.Context, name string, start Starter, binary, plugin string, environ []string, perform func(*Stage) error) (err error) {
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	logPath := filepath.Join(os.TempDir(), fmt.Sprintf("tokenbroker-%s-%d.log", name, os.Getpid()))
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer func() {
		_ = log.Close()
		if err == nil || ctx.Err() != nil {
			_ = os.Remove(logPath)
			return
		}
		err = fmt.Errorf("%w\nserver log: %s", err, logPath)
	}()
	server, err := start(ctx, binary, log, environ...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if err := server.InstallPlugin(plugin); err != nil {
		return err
	}
	return perform(&Stage{Server: server, Binary: binary, Client: filepath.Base(binary), Plugin: filepath.Base(plugin), Log: log})
}

// Serve serves handler on a free loopback port.
func Serve(ctx context.Context, handler http.Handler) (base string, closeServer func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}
