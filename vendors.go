package tokenbroker

import (
	"slices"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/kensho"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
	"vault-plugin-secrets-tokenbroker/provider/sitecore"
)

// written are the vendors whose exchange is code. All others are definitions (docs/adding-a-provider.md).
var written = map[string]provider.Provider{
	"kensho":   kensho.Provider{},
	"sitecore": sitecore.Provider{},
	"oauth2":   oauth2.Provider{},
}

// builtIn returns the engine's own vendor with a name; nil if there is none.
func builtIn(name string) provider.Provider {
	if p := written[name]; p != nil {
		return p
	}
	if p := catalogue.Lookup(name); p != nil {
		return p
	}
	return nil
}

// builtInNames returns the names of the engine's own vendors, sorted.
func builtInNames() []string {
	names := append(sortedKeys(written), catalogue.Names()...)
	slices.Sort(names)
	return names
}
