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

// Allowed are the values of a field as its schema has them. They are documentation: the
// provider checks them itself.
func Allowed(values []string) []any {
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	return list
}

// maxURL is how long a URL may be, and maxHostname how long a host's name can be (RFC 1035
// §2.3.4), in bytes: errors name the host.
const (
	maxURL      = 2 << 10
	maxHostname = 253
)

// CheckURL refuses a URL that would carry a secret in the clear: it must be
// https, or http to a loopback host. One that is too long is refused as well.
func CheckURL(field, raw string) error {
	if len(raw) > maxURL {
		return Errorf(Invalid, "%s: has %d bytes, and may have %d; give a shorter URL", field, len(raw), maxURL)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return Errorf(Invalid, "%s: is not a URL with a host; give one such as https://host/path", field)
	case len(u.Hostname()) > maxHostname:
		return Errorf(Invalid, "%s: the host's name has %d bytes, and can have %d; give the host's own name", field, len(u.Hostname()), maxHostname)
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

// Host is the host of a URL, in lower case, with its port unless that is the scheme's own;
// "" if there is none.
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

// CheckSecret refuses a secret that no HTTP header could carry, such as one pasted with a
// line break in the middle.
func CheckSecret(field, secret string) error {
	if err := checkPasted(field, secret); err != nil {
		return err
	}
	if !FitsHeader(secret) {
		return Errorf(Invalid, "%s: holds white space, a line break or a character outside ASCII; give the bare value", field)
	}
	return nil
}

// FitsHeader is whether a secret can be sent in an HTTP header: it is printable ASCII without
// spaces.
func FitsHeader(secret string) bool {
	return !strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' })
}

// CheckFormValue refuses what RFC 6749 §A does not allow in client IDs, client secrets and
// refresh tokens. It is for those that are sent in a form, in a query or by HTTP Basic, which
// carry spaces too.
func CheckFormValue(field, value string) error {
	if err := checkPasted(field, value); err != nil {
		return err
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return Errorf(Invalid, "%s: holds a line break, a control character or a character outside ASCII; give the bare value", field)
	}
	return nil
}

// checkPasted refuses what was pasted with something around it.
func checkPasted(field, value string) error {
	first, firstSize := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	for _, quotes := range []string{`""`, "''", "``", "“”", "„“", "‘’", "«»"} {
		if opening, size := utf8.DecodeRuneInString(quotes); first == opening && quotes[size:] == string(last) && len(value) > firstSize {
			return Errorf(Invalid, "%s: is in quotes; give the value without them", field)
		}
	}
	if strings.HasPrefix(value, `\"`) && strings.HasSuffix(value, `\"`) {
		return Errorf(Invalid, "%s: is in quotes; give the value without them", field)
	}
	if len(value) > len(bearer) && strings.EqualFold(value[:len(bearer)], bearer) {
		return Errorf(Invalid, "%s: begins with %q; give the token without it", field, strings.TrimSpace(bearer))
	}
	return nil
}

// bearer is what stands before an access token in an Authorization header.
const bearer = "Bearer "

// scopeToken is one scope as RFC 6749 §3.3 has it.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)

// CheckScope refuses a list with an element that is not a scope.
func CheckScope(field string, scope []string) error {
	for _, s := range scope {
		if !scopeToken.MatchString(s) {
			return Errorf(Invalid, "%s: %s is not a scope; a scope is printable ASCII without spaces, quotes and backslashes", field, Quote(s))
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
			return Errorf(Invalid, "%s: %s is not among the credential's own, %s; give some of these, or widen the credential's scope", field, Quote(s), List(whole))
		}
	}
	return nil
}

// JoinScope is the one form of a scope, as RFC 6749 §3.3 writes it: sorted, for
// their order means nothing, and separated by spaces.
func JoinScope(scope []string) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(scope))), " ")
}
