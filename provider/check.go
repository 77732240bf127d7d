package provider

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Seconds is a duration as fields and storage have it: whole seconds.
type Seconds int64

// Duration is the time that s stands for.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// DecodeFields reads the fields that an operator set into a provider's own
// struct. Its error is of kind Invalid.
func DecodeFields(fields json.RawMessage, v any) error {
	if err := json.Unmarshal(fields, v); err != nil {
		return Errorf(Invalid, "the stored fields cannot be read: write the credential anew")
	}
	return nil
}

// CheckURL refuses a URL that would carry a secret in the clear: it must be
// https, or http to a loopback host.
func CheckURL(field, raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return Errorf(Invalid, "%s: is no URL; give one such as https://host/path", field)
	case u.User != nil:
		return Errorf(Invalid, "%s: must not hold a user name or password", field)
	case u.Fragment != "":
		return Errorf(Invalid, "%s: must not hold a fragment (#…)", field)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return Errorf(Invalid, "%s: must be an https URL; plain http is taken for loopback hosts alone", field)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// CheckSecret refuses a secret that no HTTP header or query could carry, such as
// one pasted with a line break in the middle.
func CheckSecret(field, secret string) error {
	for _, r := range secret {
		if unicode.IsSpace(r) || r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return Errorf(Invalid, "%s: holds white space, a line break or a character outside ASCII; give the bare value", field)
		}
	}
	return nil
}

// scopeToken is one scope as RFC 6749 §3.3 has it.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)

// CheckScope refuses what is no list of scopes, above all several scopes in one
// string.
func CheckScope(field string, scope []string) error {
	for _, s := range scope {
		switch {
		case strings.ContainsFunc(s, unicode.IsSpace):
			return Errorf(Invalid, "%s: %q is one string with white space in it; give a list, or separate scopes with commas", field, s)
		case !scopeToken.MatchString(s):
			return Errorf(Invalid, "%s: %q is no scope; a scope is printable ASCII without quotes or backslashes", field, s)
		}
	}
	return nil
}

// CheckNarrower refuses a scope that is not part of the one that it is to narrow.
// Nothing is known of a vendor's own choice of scope (whole is empty), which is left
// to the vendor to check.
func CheckNarrower(field string, scope, whole []string) error {
	if err := CheckScope(field, scope); err != nil {
		return err
	}
	for _, s := range scope {
		if len(whole) > 0 && !slices.Contains(whole, s) {
			return Errorf(Invalid, "%s: %q is not among the credential's own, %s; give some of these, or widen the credential's scope", field, s, strings.Join(whole, ", "))
		}
	}
	return nil
}

// JoinScope is the one form of a scope, as RFC 6749 §3.3 writes it: sorted, for
// their order means nothing, and separated by spaces.
func JoinScope(scope []string) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(scope))), " ")
}

// minRSABits is the least that a vendor takes: Kensho's guide asks for 2048.
const minRSABits = 2048

// ParseRSAPrivateKey reads an RSA private key in PEM, as PKCS#1 or PKCS#8.
func ParseRSAPrivateKey(field, text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, Errorf(Invalid, "%s: is no PEM; give the whole file, from -----BEGIN to END-----", field)
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, Errorf(Invalid, "%s: is protected by a passphrase; give the key without one", field)
		}
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, Errorf(Invalid, "%s: is protected by a passphrase; give the key without one", field)
	default:
		return nil, Errorf(Invalid, `%s: the PEM is not a private key; give "RSA PRIVATE KEY" or "PRIVATE KEY"`, field)
	}
	// What the parser says may quote the key, so it is not passed on.
	rsaKey, ok := key.(*rsa.PrivateKey)
	switch {
	case err != nil:
		return nil, Errorf(Invalid, "%s: the PEM holds no key that can be read", field)
	case !ok:
		return nil, Errorf(Invalid, "%s: is not an RSA key, which this vendor asks for", field)
	case rsaKey.N.BitLen() < minRSABits:
		return nil, Errorf(Invalid, "%s: has %d bits; at least %d are needed", field, rsaKey.N.BitLen(), minRSABits)
	}
	return rsaKey, nil
}
