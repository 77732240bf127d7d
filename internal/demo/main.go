// Command demo is a tutorial that runs itself: it starts a real Vault server and simulated
// vendors, and prints each command as a person would type it, followed by its output. It
// fails if a result differs from what the tutorial says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func main() { os.Exit(run()) }

// run returns the exit status.
func run() int {
	server := flag.String("vault", "", "`path` of a vault or bao binary")
	plugin := flag.String("plugin", "", "`path` of the plugin")
	pace := flag.Duration("pace", 0, "`time` to wait after the output of each command, for a recording")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()

	err := demo(ctx, *server, *plugin, *pace)
	if err == nil {
		fmt.Println("\nDone. The server and the vendors are stopped, and all files are removed.")
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nInterrupted. The server and the vendors are stopped.")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "\nThe demo failed:", err)
		return 1
	}
	return 0
}

func demo(ctx context.Context, binary, plugin string, pace time.Duration) (err error) {
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	vendors := vendorsim.New()
	vendorURL, closeVendors, err := serve(ctx, vendors)
	if err != nil {
		return err
	}
	defer closeVendors()

	logPath := filepath.Join(os.TempDir(), fmt.Sprintf("tokenbroker-demo-%d.log", os.Getpid()))
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
	server, err := vaultserver.StartDev(ctx, binary, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if err := server.InstallPlugin(plugin); err != nil {
		return err
	}
	return (&tutorial{
		shell:     &shell{ctx: ctx, server: server, name: filepath.Base(binary), token: vaultserver.RootToken, pace: pace},
		vendors:   vendors,
		vendorURL: vendorURL,
		plugin:    filepath.Base(plugin),
		log:       log,
	}).run()
}

// serve serves handler on a free loopback port.
func serve(ctx context.Context, handler http.Handler) (base string, closeServer func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}
