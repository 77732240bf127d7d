// Command vault-plugin-secrets-tokenbroker serves the secrets engine as a Vault plugin.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"
	_ "golang.org/x/crypto/x509roots/fallback" // Mozilla's root certificates, for a system without any, such as the image

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/serve"
	"vault-plugin-secrets-tokenbroker/internal/version"
)

const name = "vault-plugin-secrets-tokenbroker"

func main() {
	meta := &api.PluginAPIClientMeta{}
	flags := meta.FlagSet()
	flags.Usage = explain
	printVersion := flags.Bool("version", false, "print the name and the version")
	logger := hclog.New(&hclog.LoggerOptions{})
	switch err := flags.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		logger.Error("cannot parse the arguments", "error", err)
		os.Exit(1)
	case *printVersion:
		fmt.Println(name, version.Version)
		return
	case os.Getenv(plugin.HandshakeConfig.MagicCookieKey) == "":
		explain()
		os.Exit(1)
	}
	// The TLS provider is only used by servers that do not support AutoMTLS for plugins.
	if err := serve.Multiplexed(tokenbroker.Factory, api.VaultPluginTLSProvider(meta.GetTLSConfig())); err != nil {
		logger.Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

// explain prints what this program is, for a person who starts it by hand.
func explain() {
	fmt.Fprintf(os.Stderr, `%[1]s %[2]s is a secrets engine for Vault.
A Vault server starts it. To install it, where $VAULT_PLUGIN_DIR is the server's plugin_directory:

    install -m 0755 %[3]s "$VAULT_PLUGIN_DIR"/%[1]s-%[2]s
    vault plugin register -sha256="$(sha256sum %[3]s | cut -d' ' -f1)" \
        -command=%[1]s-%[2]s -version=%[2]s secret tokenbroker
    vault secrets enable -path=kensho -plugin-version=%[2]s tokenbroker

The README says what to do next. With -version, this program prints its version.
`, name, version.Version, os.Args[0])
}
