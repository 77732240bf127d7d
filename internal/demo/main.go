// Command demo shows the engine at work in a real Vault server, with simulated
// vendors, as a tutorial: each command as a person would type it, and what came
// back. Anything that does not go as told ends it with an error.
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
	server := flag.String("vault", "", "the `path` of a vault or bao binary")
	plugin := flag.String("plugin", "", "the `path` of the plugin")
	pace := flag.Duration("pace", 0, "how `long` to let each command's output be read, as for a recording")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()

	err := demo(ctx, *server, *plugin, *pace)
	if err == nil {
		fmt.Println("\nThat was all. The server and the vendors are stopped, and nothing is left behind.")
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nInterrupted; all that was started has been stopped.")
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
		err = fmt.Errorf("%w\nThe server's log is in %s", err, logPath)
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

// serve answers for the vendors on a free loopback port.
func serve(ctx context.Context, handler http.Handler) (base string, closeServer func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}
