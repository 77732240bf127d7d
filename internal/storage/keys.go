package storage

import (
	"fmt"
	"strings"
)

// The first part of each key is the kind of the entry.
const (
	credentials = "config"
	keypairs    = "keypair"
	roles       = "role"
	states      = "state"
	leases      = "lease"
)

// ProbeKey is the key of an empty entry that Probe writes.
const ProbeKey = "fence"

// Sealed returns the key prefixes of entries that hold secrets, for Vault's seal wrapping.
func Sealed() []string {
	return []string{credentials + "/", keypairs + "/", states + "/", leases + "/"}
}

// CredentialKey returns the key of a credential. With an empty name it returns the prefix of all
// credentials of the vendor.
func CredentialKey(vendor, name string) string { return credentials + "/" + vendor + "/" + name }

// KeypairKey returns the key of a key pair. With an empty name it returns the prefix of all key
// pairs.
func KeypairKey(name string) string { return keypairs + "/" + name }

// RoleKey returns the key of a role. With an empty name it returns the prefix of all roles.
func RoleKey(name string) string { return roles + "/" + name }

// StateKey returns the key of one part of a credential's state. With an empty part it returns the
// prefix of all parts.
func StateKey(name, part string) string { return states + "/" + name + "/" + part }

// LeaseKey returns the key of a dedicated token. With an empty id it returns the prefix of one series
// of a role's tokens; with an empty role, the prefix of all dedicated tokens of the credential.
func LeaseKey(credential, role, series, id string) string {
	prefix := leases + "/" + credential + "/"
	if role == "" {
		return prefix
	}
	return prefix + role + "/" + series + "/" + id
}

// A Kind is the kind of a storage entry.
type Kind int

// The kinds of entries. Other stands for all entries that callers need not tell apart.
const (
	Other Kind = iota
	Credential
	Keypair
	Role
	State
)

// ParseKey returns the kind of the entry with this key, and its name.
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

// pathOf returns the path by which operators know the entry with this key.
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

// Damaged returns a *DamagedError for the entry with this key. fix tells operators how to repair it.
func Damaged(key, fix string) error {
	path := pathOf(key)
	if kind, _ := ParseKey(key); kind == State { // a name has several state entries
		path = key
	}
	return &DamagedError{fmt.Sprintf("%s cannot be decoded; %s", path, fix)}
}
