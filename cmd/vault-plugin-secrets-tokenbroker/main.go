// Command vault-plugin-secrets-tokenbroker is the plugin as Vault runs it.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"
	_ "golang.org/x/crypto/x509roots/fallback" // Mozilla's authorities, where the system has none: in an image

	tokenbroker "vault-plugin-secrets-tokenbroker"
)

func main() {
	logger := hclog.New(&hclog.LoggerOptions{})
	meta := &api.PluginAPIClientMeta{}
	if err := meta.FlagSet().Parse(os.Args[1:]); err != nil {
		logger.Error("cannot parse the arguments", "error", err)
		os.Exit(1)
	}
	err := plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: tokenbroker.Factory,
		// For servers that do not speak AutoMTLS with plugins.
		TLSProviderFunc: api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
	if err != nil {
		logger.Error("the plugin shuts down", "error", err)
		os.Exit(1)
	}
}
