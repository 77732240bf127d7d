// Package apipath returns the path of a given name, for errors and events. The engine's path
// definitions are in its root package.
package apipath

// Credential returns the path of a credential.
func Credential(vendor, name string) string { return "config/" + vendor + "/" + name }

// Creds returns the path at which the token of a role or credential is read.
func Creds(name string) string { return "creds/" + name }

// Keypair returns the path of a key pair.
func Keypair(name string) string { return "keypair/" + name }

// Refresh returns the path of a credential's refresh.
func Refresh(name string) string { return "refresh/" + name }

// Vendor returns the path of a vendor of the catalogue.
func Vendor(name string) string { return "vendors/" + name }

// Role returns the path of a role.
func Role(name string) string { return "roles/" + name }

// Status returns the path of a credential's status.
func Status(name string) string { return "status/" + name }
