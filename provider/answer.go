package provider

import (
	"bytes"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Members of an answer that are not what they should be must not cost what stands beside
// them, such as a good token. The types below decode without an error, and are empty where
// the answer has something else.

// Text is a JSON string.
type Text string

// UnmarshalJSON leaves t as it is where raw is not a string.
func (t *Text) UnmarshalJSON(raw []byte) error {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		*t = Text(s)
	}
	return nil
}

// Texts is a JSON array of strings, or a single string. Other elements are left out.
type Texts []string

// UnmarshalJSON leaves t as it is where raw is neither.
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

// Number is a JSON number, or a JSON string, in which some vendors write numbers, as it
// stands in the answer. [Lifetime] reads it.
type Number json.RawMessage

// UnmarshalJSON leaves n as it is where raw is neither.
func (n *Number) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && strings.IndexByte(`"-0123456789`, raw[0]) >= 0 {
		*n = slices.Clone(raw)
	}
	return nil
}

// isStated is whether a JSON value says anything: false, 0, "", an empty array and an empty
// object beside a token do not say that there was an error. It decodes no more than a number.
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

// HasError is whether the answer has an "error" that says anything, which some vendors send
// with status 200.
func (r *Reply) HasError() bool {
	var body map[string]json.RawMessage
	return r.Decode(&body) == nil && isStated(body["error"])
}

// NoToken is why an answer of status 2xx has no access token, in the vendor's own words: a
// refusal if there is an "error" in it, else an invalid response.
func (r *Reply) NoToken() *Error {
	if r.HasError() {
		return r.Refusal()
	}
	e := Errorf(InvalidResponse, "the vendor's answer holds no access token")
	if words := reason(r.Body, r.secrets); words != "" {
		e.Reason += ": " + words
	}
	e.Clock = r.Clock
	return e
}

// byteOrderMark may stand before a text in UTF-8 (RFC 8259 §8.1).
var byteOrderMark = []byte("\xef\xbb\xbf")

// asJSON is the body of an answer without a byte order mark, and as JSON if it is a form
// (application/x-www-form-urlencoded), in which some vendors answer. It goes by the body and
// not by its Content-Type, which with forms is often another.
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
		if len(all) > 1 { // which RFC 6749 §5 forbids, as it leaves open which one counts
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

// maxForm is how long a form may be, with tokens as long as they may be, and maxPairs how much
// there may be in it.
const (
	maxForm  = 3 * maxToken
	maxPairs = 100
)

var form = regexp.MustCompile(`^[A-Za-z_]+=[^\s<>{}"]*$`)

// tokenType is a type name or a URI (RFC 6749 §A.13), and maxTokenType how long it may be
// in bytes.
var tokenType = regexp.MustCompile(`^([A-Za-z0-9._-]+|[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+)$`)

const maxTokenType = 100

// maxToken is how long a token may be in bytes, and maxScope how long the scope that an answer
// states: no server takes a header that long, and storage takes 1 MiB in an entry, or less.
const (
	maxToken = 256 << 10
	maxScope = 16 << 10
)

// Replacement is the refresh token that an answer gives in place of the one that was used; ""
// if it gives none, or the same. What has other characters than RFC 6749 §A.17 gives a refresh
// token, or is only white space, or a name that a language has for nothing, or is too long to
// be stored, does not take the place of one that has just worked.
func Replacement(given, used string) string {
	switch {
	case given == used || len(given) > maxToken || strings.TrimSpace(given) != given || strings.ContainsFunc(given, func(r rune) bool { return r < ' ' || r > '~' }):
		return ""
	case slices.Contains([]string{"null", "undefined", "None", "nil"}, given):
		return ""
	}
	return given
}

// checkShown refuses what cannot be shown or sent of an answer that is otherwise good: a
// token_type or a scope of other characters than RFC 6749 gives them.
func (a *Answer) checkShown() error {
	if a.TokenType != "" && (len(a.TokenType) > maxTokenType || !tokenType.MatchString(a.TokenType)) {
		return Errorf(InvalidResponse, "the vendor's token_type is not a type name or a URI of at most %d bytes (RFC 6749 §7.1)", maxTokenType)
	}
	if size := len(strings.Join(a.Scope, " ")); size > maxScope {
		return Errorf(InvalidResponse, "the vendor's scope has %d bytes, and may have %d", size, maxScope)
	}
	for _, scope := range a.Scope {
		if !scopeToken.MatchString(scope) {
			return Errorf(InvalidResponse, "the vendor's scope holds a character that a scope cannot have (RFC 6749 §3.3)")
		}
	}
	return nil
}

// ReadScope is the scope that an answer states, as a list: separated by white space, or by
// commas with some vendors. A comma does not separate within one of the known scopes, which
// are all those of the credential: a part of one would pass for a scope that nobody knows.
func ReadScope(stated Texts, known []string) []string {
	commas := 0 // at most, in a known scope
	for _, one := range known {
		commas = max(commas, strings.Count(one, ","))
	}
	var scope []string
	for _, text := range stated {
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
