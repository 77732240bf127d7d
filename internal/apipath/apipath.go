// Package apipath returns the paths at which operators find things, for errors and events. The
// engine's path definitions are in its root package.
package apipath

// Credential returns the path of a credential.
func Credential(vendor, name string) string { return "config/" + vendor + "/" + name }

// Keypair returns the path of a key pair.
func Keypair(name string) string { return "keypair/" + name }

// Role returns the path of a role.
func Role(name string) string { return "roles/" + name }

// Status returns the path of a credential's status.
func Status(name string) string { return "status/" + name }
