// Command demo is a tutorial that runs itself: it starts a real Vault server and simulated
// vendors, and prints each command as a person would type it, followed by its output. It
// fails if a result differs from what the tutorial says.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/demo/stage"
)

func main() { os.Exit(run()) }

// run returns the exit status.
func run() int {
	server := flag.String("vault", "", "`path` of a vault or bao binary")
	plugin := flag.String("plugin", "", "`path` of the plugin")
	flag.Parse()
	ctx, stop := stage.Context()
	defer stop()

	err := demo(ctx, *server, *plugin)
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

func demo(ctx context.Context, binary, plugin string) error {
	vendors := vendorsim.New()
	vendorURL, closeVendors, err := stage.Serve(ctx, vendors)
	if err != nil {
		return err
	}
	defer closeVendors()
	return stage.Run(ctx, "demo", vaultserver.StartDev, binary, plugin, nil, func(s *stage.Stage) error {
		return (&tutorial{
			shell:     &shell{ctx: ctx, server: s.Server, name: s.Client, token: vaultserver.RootToken},
			vendors:   vendors,
			vendorURL: vendorURL,
			plugin:    s.Plugin,
			log:       s.Log,
		}).run()
	})
}
