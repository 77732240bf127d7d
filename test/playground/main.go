// Command playground starts a real Vault server and simulated vendors, stores a credential of each
// vendor and prints commands to try. It runs until a signal ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/demo/stage"
	"vault-plugin-secrets-tokenbroker/test/internal/vendorproxy"
)

func main() { os.Exit(run()) }

// run returns the exit status.
func run() int {
	binary := flag.String("vault", "", "`path` of a vault or bao binary")
	plugin := flag.String("plugin", "", "`path` of the plugin")
	version := flag.String("version", "", "`version` of the plugin")
	flag.Parse()
	ctx, stop := stage.Context()
	defer stop()

	if err := playground(ctx, *binary, *plugin, *version); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "\nThe playground failed:", err)
		return 1
	}
	fmt.Println("\nThe server and the vendors are stopped, and all files are removed.")
	return 0
}

func playground(ctx context.Context, binary, plugin, version string) (err error) {
	folder, err := os.MkdirTemp("", "tokenbroker-playground-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := process.RemoveAtExit(folder); err != nil {
		return err
	}
	account, switches, err := openAccounts(".", time.Now())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, account.Close()) }()
	proxy, closeProxy, err := stage.Serve(ctx, vendorproxy.New(account, nil))
	if err != nil {
		return err
	}
	defer closeProxy()
	control, closeControl, err := stage.Serve(ctx, switches)
	if err != nil {
		return err
	}
	defer closeControl()
	environ, err := vendorproxy.Environ(proxy, folder)
	if err != nil {
		return err
	}
	fmt.Println("Starting a server …")
	return stage.Run(ctx, "playground", vaultserver.StartRaft, binary, plugin, environ, func(s *stage.Stage) error {
		if err := setUp(ctx, s, version, account.Variables()); err != nil {
			return err
		}
		if err := invite(s, folder, control, account.Variables()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.Server.Ended():
			return errors.New("the server ended")
		}
	})
}
