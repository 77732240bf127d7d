// Command vault-plugin-secrets-tokenbroker serves the secrets engine as a Vault plugin.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"
	_ "golang.org/x/crypto/x509roots/fallback" // Mozilla's root certificates, for a system without any, such as the image

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
		// Only used by servers that do not support AutoMTLS for plugins.
		TLSProviderFunc: api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
	if err != nil {
		logger.Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}
