package provider

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/go-openapi/jsonpointer"
)

// A member of an unexpected type must not make the rest of the response, such as a valid
// token, unusable. The types below therefore decode without an error, and stay empty if the
// response has a value of another type.

// Text is a JSON string.
type Text string

// UnmarshalJSON leaves t unchanged if raw is not a string.
func (t *Text) UnmarshalJSON(raw []byte) error {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		*t = Text(s)
	}
	return nil
}

// Texts is a JSON array of strings, or a single string. Other elements are skipped.
type Texts []string

// UnmarshalJSON leaves t unchanged if raw is neither.
func (t *Texts) UnmarshalJSON(raw []byte) error {
	var list []Text
	if json.Unmarshal(raw, &list) != nil {
		list = make([]Text, 1)
		_ = list[0].UnmarshalJSON(raw)
	}
	for _, text := range list {
		if text != "" {
			*t = append(*t, string(text))
		}
	}
	return nil
}

// Number is a JSON number, or a JSON string with a number, as the response has it.
// [Lifetime] parses it.
type Number json.RawMessage

// UnmarshalJSON leaves n unchanged if raw is neither.
func (n *Number) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && strings.IndexByte(`"-0123456789`, raw[0]) >= 0 {
		*n = slices.Clone(raw)
	}
	return nil
}

// isStated reports whether a JSON value is set: not null, false, 0, "", an empty array or an
// empty object. It decodes nothing but numbers, as strings and arrays can be large.
func isStated(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return false
	}
	switch raw[0] {
	case 'n', 'f': // null, false
		return false
	case '"', '[', '{':
		return len(bytes.TrimSpace(raw[1:len(raw)-1])) > 0
	case 't':
		return true
	}
	var n float64
	return json.Unmarshal(raw, &n) != nil || n != 0
}

// Member returns the member of a decoded JSON value at a JSON Pointer (RFC 6901); nil if there is none.
func Member(value any, pointer string) json.RawMessage {
	p, err := jsonpointer.New(pointer)
	if pointer == "" || err != nil {
		return nil
	}
	member, _, err := p.Get(value)
	if err != nil {
		return nil
	}
	raw, err := json.Marshal(member)
	if err != nil {
		return nil
	}
	return raw
}

// HasError reports whether the response has an "error" that is set. Some vendors send one
// with status 200.
func (r *Reply) HasError() bool {
	if r.ownCode() != "" {
		return true
	}
	var body map[string]json.RawMessage
	return r.Decode(&body) == nil && isStated(body["error"])
}

// NoToken returns the error of a 2xx response without an access token, with the vendor's own message. where
// is the place of the token, such as "at /access_token", or empty. The error is a refusal if there is an
// "error", and otherwise an invalid response.
func (r *Reply) NoToken(where string) *Error {
	return r.lacks(strings.TrimSuffix("contains no access token "+where, " "))
}

// NoMember is NoToken for a member that the vendor documents.
func (r *Reply) NoMember(pointer string) *Error { return r.lacks("has no value at " + pointer) }

func (r *Reply) lacks(what string) *Error {
	if r.HasError() {
		return r.Refusal()
	}
	e := Errorf(InvalidResponse, "the vendor's response %s", what)
	if words := r.words(); words != "" {
		e.Reason += ": " + words
	}
	e.Clock = r.Clock
	return e
}

// byteOrderMark may precede a text in UTF-8 (RFC 8259 §8.1).
var byteOrderMark = []byte("\xef\xbb\xbf")

// asJSON removes a byte order mark from a body and converts a form
// (application/x-www-form-urlencoded) to JSON. It recognizes a form by the body and not by
// the Content-Type, which is often wrong.
func asJSON(body []byte) []byte {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if len(body) > maxForm || bytes.Count(body, []byte("&")) > maxPairs {
		return body
	}
	text := strings.TrimSpace(string(body))
	if !form.MatchString(text) {
		return body
	}
	values, err := url.ParseQuery(text)
	if err != nil || !values.Has("access_token") && !values.Has("error") {
		return body
	}
	object := map[string]string{}
	for name, all := range values {
		if len(all) > 1 { // RFC 6749 §5 forbids it; which one counts is ambiguous
			return body
		}
		object[name] = all[0]
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return body
	}
	return raw
}

// maxForm bounds a form in bytes, with room for tokens of maxToken; maxPairs bounds its
// parameters.
const (
	maxForm  = 3 * maxToken
	maxPairs = 100
)

var form = regexp.MustCompile(`^[A-Za-z_]+=[^\s<>{}"]*$`)

// tokenType matches a type name or a URI (RFC 6749 appendix A.13).
var tokenType = regexp.MustCompile(`^([A-Za-z0-9._-]+|[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+)$`)

const maxTokenType = 100 // bytes

// maxToken bounds a token, and maxScope the scope in a response, in bytes. No server accepts
// a header of that size, and a storage entry is limited to 1 MiB or less.
const (
	maxToken = 256 << 10
	maxScope = 16 << 10
	maxExtra = 4 << 10 // of each further member for readers
)

// Replacement returns given if it is a rotated refresh token that replaces used, and "" if it
// is the same or none. A value that cannot be a refresh token does not replace one that has
// just worked: one with characters outside RFC 6749 appendix A.17, with white space around
// it, too long to be stored, or a null value of some language.
func Replacement(given, used string) string {
	switch {
	case given == used || len(given) > maxToken || strings.TrimSpace(given) != given || strings.ContainsFunc(given, func(r rune) bool { return r < ' ' || r > '~' }):
		return ""
	case slices.Contains([]string{"null", "undefined", "None", "nil"}, given):
		return ""
	}
	return given
}

// checkShown returns an error of kind InvalidResponse if the token_type or the scope is too
// long or has characters that RFC 6749 does not allow. Readers and status show both.
func (a *Answer) checkShown() error {
	if a.TokenType != "" && (len(a.TokenType) > maxTokenType || !tokenType.MatchString(a.TokenType)) {
		return Errorf(InvalidResponse, "the vendor's token_type is not a type name or a URI of at most %d bytes (RFC 6749 §7.1)", maxTokenType)
	}
	if size := len(strings.Join(a.Scope, " ")); size > maxScope {
		return Errorf(InvalidResponse, "the vendor's scope is too long: %d bytes (at most %d)", size, maxScope)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Extra)) {
		if value := a.Extra[name]; len(value) > maxExtra || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return Errorf(InvalidResponse, "the vendor's %s is not a printable text of at most %d bytes", name, maxExtra)
		}
	}
	for _, scope := range a.Scope {
		if !scopeToken.MatchString(scope) {
			return Errorf(InvalidResponse, "the vendor's scope contains an invalid character (RFC 6749 §3.3)")
		}
	}
	return nil
}

// ReadScope splits the scope of a response into a list. White space separates scopes; with
// some vendors, commas do. A comma does not separate if it is part of one of the known
// scopes, which are all those of the credential. So does separator, unless it is "".
func ReadScope(stated Texts, known []string, separator string) []string {
	commas := 0 // the most in a known scope
	for _, one := range known {
		commas = max(commas, strings.Count(one, ","))
	}
	var scope []string
	for _, text := range stated {
		if separator != "" && separator != "," {
			text = strings.ReplaceAll(text, separator, " ")
		}
		for word := range strings.FieldsSeq(text) {
			for parts := strings.Split(word, ","); len(parts) > 0; {
				n := min(commas+1, len(parts))
				for n > 1 && !slices.Contains(known, strings.Join(parts[:n], ",")) {
					n--
				}
				if n > 1 || parts[0] != "" {
					scope = append(scope, strings.Join(parts[:n], ","))
				}
				parts = parts[n:]
			}
		}
	}
	return scope
}
