package provider

import (
	"encoding/json"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Seconds is a duration in whole seconds, the unit of fields and stored entries.
type Seconds int64

// Duration returns s as a [time.Duration].
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// DecodeFields decodes the fields that an operator set into v. Its error is of kind
// Invalid.
func DecodeFields(fields json.RawMessage, v any) error {
	if err := json.Unmarshal(fields, v); err != nil {
		return Errorf(Invalid, "cannot read the stored fields; write the credential again")
	}
	return nil
}

// Allowed converts values for the AllowedValues of a field's schema. These are only
// documentation: Vault does not check them, so the provider must.
func Allowed(values []string) []any {
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	return list
}

// maxURL and maxHostname (RFC 1035 §2.3.4) are maximum lengths in bytes. They bound the
// text of errors that name the host.
const (
	maxURL      = 2 << 10
	maxHostname = 253
)

// CheckURL returns an error of kind Invalid unless raw is a URL that a secret can be sent
// to: https, or http with a loopback host, and not longer than 2 KiB.
func CheckURL(field, raw string) error {
	if len(raw) > maxURL {
		return Errorf(Invalid, "%s: the URL is too long: %d bytes (at most %d)", field, len(raw), maxURL)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return Errorf(Invalid, "%s: not a URL with a host; use the form https://host/path", field)
	case len(u.Hostname()) > maxHostname:
		return Errorf(Invalid, "%s: the host name is too long: %d bytes (at most %d)", field, len(u.Hostname()), maxHostname)
	case u.User != nil:
		return Errorf(Invalid, "%s: must not contain a user name or password", field)
	case u.Fragment != "":
		return Errorf(Invalid, "%s: must not contain a fragment (#…)", field)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return Errorf(Invalid, "%s: must be an https URL; http is allowed only for loopback hosts", field)
}

// Host returns the host of a URL in lower case, with its port unless it is the scheme's
// default. It returns "" if raw has no host.
func Host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return host
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// CheckSecret returns an error of kind Invalid if a secret cannot be sent in an HTTP
// header, such as one pasted with a line break in the middle.
func CheckSecret(field, secret string) error {
	if err := checkPasted(field, secret); err != nil {
		return err
	}
	if !FitsHeader(secret) {
		return Errorf(Invalid, "%s: contains white space, a line break or a non-ASCII character; give the bare value", field)
	}
	return nil
}

// FitsHeader reports whether a secret can be sent in an HTTP header, that is, whether it is
// printable ASCII without spaces.
func FitsHeader(secret string) bool {
	return !strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' })
}

// CheckFormValue returns an error of kind Invalid if a value contains characters that RFC
// 6749 appendix A does not allow in client IDs, client secrets and refresh tokens. It is
// for values sent in a form, in a query or with HTTP Basic, which can contain spaces.
func CheckFormValue(field, value string) error {
	if err := checkPasted(field, value); err != nil {
		return err
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return Errorf(Invalid, "%s: contains a line break, a control character or a non-ASCII character; give the bare value", field)
	}
	return nil
}

// checkPasted rejects a value that was pasted together with quotes or "Bearer".
func checkPasted(field, value string) error {
	first, firstSize := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	for _, quotes := range []string{`""`, "''", "``", "“”", "„“", "‘’", "«»"} {
		if opening, size := utf8.DecodeRuneInString(quotes); first == opening && quotes[size:] == string(last) && len(value) > firstSize {
			return Errorf(Invalid, "%s: is quoted; give the value without the quotes", field)
		}
	}
	if strings.HasPrefix(value, `\"`) && strings.HasSuffix(value, `\"`) {
		return Errorf(Invalid, "%s: is quoted; give the value without the quotes", field)
	}
	if len(value) > len(bearer) && strings.EqualFold(value[:len(bearer)], bearer) {
		return Errorf(Invalid, "%s: begins with %q; give the token without it", field, strings.TrimSpace(bearer))
	}
	return nil
}

// bearer precedes an access token in an Authorization header.
const bearer = "Bearer "

// scopeToken matches one scope (RFC 6749 §3.3).
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)

// CheckScope returns an error of kind Invalid if an element of the list is not a scope.
func CheckScope(field string, scope []string) error {
	for _, s := range scope {
		if !scopeToken.MatchString(s) {
			return Errorf(Invalid, "%s: %s is not a scope; a scope is printable ASCII without spaces, double quotes and backslashes", field, Quote(s))
		}
	}
	return nil
}

// CheckNarrower returns an error of kind Invalid unless every element of scope is in
// whole. If whole is empty, the vendor chooses the scopes of the credential, and only the
// vendor can check.
func CheckNarrower(field string, scope, whole []string) error {
	if err := CheckScope(field, scope); err != nil {
		return err
	}
	for _, s := range scope {
		if len(whole) > 0 && !slices.Contains(whole, s) {
			return Errorf(Invalid, "%s: %s is not a scope of the credential (%s); use some of these, or add the scope to the credential", field, Quote(s), List(whole))
		}
	}
	return nil
}

// JoinScope returns the canonical form of a list of scopes: sorted, without duplicates and
// separated by spaces. Their order has no meaning (RFC 6749 §3.3).
func JoinScope(scope []string) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(scope))), " ")
}
