// Package version holds the version that the plugin reports of itself.
package version

// Version is the plugin's semantic version: Vault compares it with the one in
// the plugin catalog, and vendors see it in the User-Agent. `make build` sets it.
var Version = "v0.0.0-dev"
