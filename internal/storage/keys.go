package storage

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
)

// The first part of each key is the kind of the entry.
const (
	credentials = "config"
	vendors     = "vendor"
	keypairs    = "keypair"
	roles       = "role"
	states      = "state"
	leases      = "lease"
	consents    = "consent"
	clients     = "client"
	variants    = "variant"
	hosts       = "host"
	inUse       = "vendor-in-use"
)

// ProbeKey is the key of an empty entry that Probe writes.
const ProbeKey = "probe"

// Sealed returns the key prefixes of entries that hold secrets, for Vault's seal wrapping.
func Sealed() []string {
	return []string{credentials + "/", keypairs + "/", states + "/", leases + "/", consents + "/", clients + "/", variants + "/"}
}

// CredentialsPrefix is the prefix of the keys of all credentials. Its folders are the vendors that have any.
const CredentialsPrefix = credentials + "/"

// VendorInUseKey returns the key of an empty entry that says that a vendor may have credentials. With an empty
// name it returns the prefix of all of them.
func VendorInUseKey(vendor string) string { return inUse + "/" + vendor }

// VendorKey returns the key of an operator's definition of a vendor. With an empty name it returns the
// prefix of all definitions.
func VendorKey(name string) string { return vendors + "/" + name }

// CredentialKey returns the key of a credential. With an empty name it returns the prefix of all
// credentials of the vendor.
func CredentialKey(vendor, name string) string { return credentials + "/" + vendor + "/" + name }

// KeypairKey returns the key of a key pair. With an empty name it returns the prefix of all key
// pairs.
func KeypairKey(name string) string { return keypairs + "/" + name }

// RoleKey returns the key of a role. With an empty name it returns the prefix of all roles.
func RoleKey(name string) string { return roles + "/" + name }

// ClientKey returns the key of a client. With an empty name it returns the prefix of all clients.
func ClientKey(name string) string { return clients + "/" + name }

// HostKey returns the key of the limit of a host. With an empty name it returns the prefix of all limits.
func HostKey(name string) string { return hosts + "/" + name }

// VariantsPrefix is the prefix of the keys of all variants. Its folders are the credentials that have any.
const VariantsPrefix = variants + "/"

// VariantKey returns the key of a credential's variant. With an empty digest it returns the prefix of all
// variants of the credential.
func VariantKey(credential, digest string) string { return VariantsPrefix + credential + "/" + digest }

// ConsentKey returns the key of the latest consent to a credential.
func ConsentKey(credential string) string { return consents + "/" + credential }

// StatePrefix returns the prefix of the keys of a credential's state.
func StatePrefix(name string) string { return states + "/" + name + "/" }

// GrantKey returns the key of the part of a credential's state that all scopes share.
func GrantKey(name string) string { return StatePrefix(name) + "grant" }

// ScopeKey returns the key of the part of a credential's state that concerns one scope; "" is the
// credential's own scope.
func ScopeKey(name, scope string) string {
	if scope == "" {
		return StatePrefix(name) + "own"
	}
	return StatePrefix(name) + digest(scope)
}

// LeasesPrefix returns the prefix of the keys of all dedicated tokens of a credential.
func LeasesPrefix(credential string) string { return leases + "/" + credential + "/" }

// SeriesPrefix returns the prefix of the keys of one series of a role's dedicated tokens.
func SeriesPrefix(credential, role, series string) string {
	return LeasesPrefix(credential) + role + "/" + series + "/"
}

// LeaseKey returns the key of a dedicated token that expires at a time.
func LeaseKey(credential, role, series, accessToken string, expiry time.Time) string {
	return SeriesPrefix(credential, role, series) + strconv.FormatInt(expiry.Unix(), 10) + "-" + digest(accessToken)
}

// delegated is in place of a role in the keys of callers' tokens. No role can have that name.
const delegated = "+exchange"

// DelegatedKey returns the key of one lease of a caller's token that expires at a time.
func DelegatedKey(credential, accessToken, id string, expiry time.Time) string {
	return LeasesPrefix(credential) + delegated + "/" + digest(accessToken) + "/" + strconv.FormatInt(expiry.Unix(), 10) + "-" + id
}

// DelegatedPrefix returns the prefix of the keys of all leases of the token that a key is of.
func DelegatedPrefix(key string) string { return key[:strings.LastIndex(key, "/")+1] }

// LeaseExpiry returns the expiry in the key of a dedicated token, or the zero time if it has none.
func LeaseExpiry(key string) time.Time {
	seconds, _, _ := strings.Cut(key[strings.LastIndex(key, "/")+1:], "-")
	expiry, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(expiry, 0)
}

// IsLeaseOf reports whether a key is that of a dedicated token.
func IsLeaseOf(key, accessToken string) bool { return strings.HasSuffix(key, "-"+digest(accessToken)) }

// digest returns the SHA-256 of a text, for a key that must not contain the text itself.
func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// A Kind is the kind of a storage entry.
type Kind int

// The kinds of entries. Other stands for all entries that callers need not tell apart.
const (
	Other Kind = iota
	Credential
	Vendor
	Keypair
	Role
	State
	Consent
	Client
	Variant
	Host
	VendorInUse
)

// ParseKey returns the kind of the entry with this key, and its name.
func ParseKey(key string) (Kind, string) {
	first, rest, _ := strings.Cut(key, "/")
	last := key[strings.LastIndex(key, "/")+1:]
	switch first {
	case credentials:
		return Credential, last
	case vendors:
		return Vendor, last
	case keypairs:
		return Keypair, last
	case roles:
		return Role, last
	case states:
		name, _, _ := strings.Cut(rest, "/")
		return State, name
	case consents:
		return Consent, last
	case clients:
		return Client, last
	case hosts:
		return Host, last
	case inUse:
		return VendorInUse, last
	case variants:
		name, _, _ := strings.Cut(rest, "/")
		return Variant, name
	}
	return Other, ""
}

// pathOf returns the path by which operators know the entry with this key.
func pathOf(key string) string {
	switch kind, name := ParseKey(key); kind {
	case Role:
		return apipath.Role(name)
	case Vendor:
		return apipath.Vendor(name)
	case State:
		return apipath.Status(name)
	case Consent:
		return apipath.Authorize(name)
	case Client:
		return apipath.Client(name)
	case Host:
		return apipath.Host(name)
	case Variant:
		return apipath.Status(name)
	case Credential, Keypair:
		return key // their keys are their paths
	}
	return key // other entries have no path
}

// Damaged returns a *DamagedError for the entry with this key. fix tells operators how to repair it.
func Damaged(key, fix string) error {
	path := pathOf(key)
	if kind, _ := ParseKey(key); kind == State { // a name has several state entries
		path = key
	}
	return &DamagedError{fmt.Sprintf("%s cannot be decoded; %s", path, fix)}
}
