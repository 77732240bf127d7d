// Package apipath returns the path of a given name, for errors and events. The engine's path
// definitions are in its root package.
package apipath

// NamePattern returns the regular expression of a name in a path, captured as field: that of Vault's own
// engines, and @ and + within it, as in an address of e-mail. The field has
// framework.TypeString, since TypeNameString allows neither, and is checked with an expression that the
// framework compiles for each request.
func NamePattern(field string) string { return "(?P<" + field + `>\w(([\w.@+-]+)?\w)?)` }

// IsName reports whether a path can have a name: whether NamePattern matches it, and it is not too long.
// Each read of a token calls it, and a regular expression would take most of the call's time.
func IsName(name string) bool {
	if name == "" || len(name) > MaxName || !isWordByte(name[0]) || !isWordByte(name[len(name)-1]) {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case isWordByte(c), c == '.', c == '@', c == '+', c == '-':
		default:
			return false
		}
	}
	return true
}

// isWordByte reports whether a byte matches \w in a regular expression.
func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// MaxName is the maximum length of a name, in bytes.
const MaxName = 128

// Authorize returns the path at which a person's consent begins.
func Authorize(name string) string { return "authorize/" + name }

// Client returns the path of an OAuth client that credentials share.
func Client(name string) string { return "clients/" + name }

// Credential returns the path of a credential.
func Credential(vendor, name string) string { return "config/" + vendor + "/" + name }

// Creds returns the path at which the token of a role or credential is read.
func Creds(name string) string { return "creds/" + name }

// Exchange returns the path at which a caller's token is exchanged.
func Exchange(name string) string { return "exchange/" + name }

// HostPattern returns the regular expression of a host in a path, captured as field: a name or an
// address, with or without a port.
func HostPattern(field string) string { return "(?P<" + field + `>[\w\[][\w.:\[\]-]*)` }

// Host returns the path of a host of vendors.
func Host(name string) string { return "hosts/" + name }

// JWKS returns the path of the public keys of a key pair.
func JWKS(name string) string { return "jwks/" + name }

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
