// Package version holds the version of the plugin.
package version

// Version is the semantic version of the plugin. Vault compares it with the version in the
// plugin catalog, and requests to vendors have it in the User-Agent. `make build` sets it.
var Version = "v0.0.0-dev"
