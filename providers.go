package tokenbroker

import (
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/kensho"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
	"vault-plugin-secrets-tokenbroker/provider/sitecore"
)

// providers are the providers of the engine. To add one, see docs/adding-a-provider.md.
var providers = []provider.Provider{
	kensho.Provider{},
	sitecore.Provider{},
	oauth2.Provider{},
}

func providerNames() []string {
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Name()
	}
	return names
}
