package storage

import (
	"fmt"
	"strings"
)

// The first part of each key, which says what the entry is.
const (
	credentials = "config"
	keypairs    = "keypair"
	roles       = "role"
	states      = "state"
	leases      = "lease"
)

// ProbeKey is the key of an entry without content. Writing it shows whether storage takes
// writes.
const ProbeKey = "fence"

// Sealed returns the prefixes of the keys of entries that hold secrets. Vault encrypts those
// entries a second time where its seal can.
func Sealed() []string {
	return []string{credentials + "/", keypairs + "/", states + "/", leases + "/"}
}

// CredentialKey returns the key of a credential. With an empty name it is the prefix of the
// keys of all credentials of the vendor.
func CredentialKey(vendor, name string) string { return credentials + "/" + vendor + "/" + name }

// KeypairKey returns the key of a key pair. With an empty name it is the prefix of the keys of
// all key pairs.
func KeypairKey(name string) string { return keypairs + "/" + name }

// RoleKey returns the key of a role. With an empty name it is the prefix of the keys of all
// roles.
func RoleKey(name string) string { return roles + "/" + name }

// StateKey returns the key of one part of what the engine knows about a credential. With an
// empty part it is the prefix of the keys of all parts.
func StateKey(name, part string) string { return states + "/" + name + "/" + part }

// LeaseKey returns the key of a leased token that is not shared. With an empty id it is the
// prefix of the keys of the tokens of one series of a role, and with an empty role that of all
// leased tokens of the credential.
func LeaseKey(credential, role, series, id string) string {
	prefix := leases + "/" + credential + "/"
	if role == "" {
		return prefix
	}
	return prefix + role + "/" + series + "/" + id
}

// A Kind is what an entry is about.
type Kind int

// The kinds; Other is what needs no name.
const (
	Other Kind = iota
	Credential
	Keypair
	Role
	State
)

// ParseKey returns what the entry of a key is about, and its name.
func ParseKey(key string) (Kind, string) {
	first, rest, _ := strings.Cut(key, "/")
	last := key[strings.LastIndex(key, "/")+1:]
	switch first {
	case credentials:
		return Credential, last
	case keypairs:
		return Keypair, last
	case roles:
		return Role, last
	case states:
		name, _, _ := strings.Cut(rest, "/")
		return State, name
	}
	return Other, ""
}

// pathOf returns the path under which an operator knows the entry of a key.
func pathOf(key string) string {
	switch kind, name := ParseKey(key); kind {
	case Role:
		return "roles/" + name
	case State:
		return "status/" + name
	default:
		return key
	}
}

// Damaged returns the error of an entry that holds something that the engine does not write. fix
// tells the operator what to do.
func Damaged(key, fix string) error {
	path := pathOf(key)
	if kind, _ := ParseKey(key); kind == State { // of which a name has several
		path = key
	}
	return &DamagedError{fmt.Sprintf("%s cannot be decoded; %s", path, fix)}
}
