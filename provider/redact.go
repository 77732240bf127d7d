package provider

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

const (
	// maxReason is how much of a vendor's own words an error quotes, in bytes.
	maxReason = 200

	// maxRefusal is how long an answer that says what is wrong may be, in bytes: of a longer one
	// only the status counts, as decoding it takes time and memory.
	maxRefusal = 64 << 10

	// maxSearched is how much of them is searched for what to quote.
	maxSearched = 8 << 10
)

// reason is what a vendor says is wrong, from the body of an answer: the members of a JSON
// object that error answers use, or a JSON string. (A form is JSON by then, asJSON.) What is
// neither may come from any server that a URL leads to, and nothing of it is quoted. Tokens
// and secrets that the answer itself holds are not quoted either.
func reason(body []byte, secrets []string) string {
	if len(body) > maxRefusal {
		return ""
	}
	var value any
	if json.Unmarshal(body, &value) != nil {
		return ""
	}
	var found []string
	collect(value, 0, func(words string) {
		if words != "" && !slices.Contains(found, words) {
			found = append(found, words)
		}
	})
	secrets = slices.Clip(secrets)
	collectSecrets(value, false, func(secret string) { secrets = append(secrets, secret) })
	return redact(strings.Join(found, ": "), secrets)
}

// secretMember matches the names of members that hold a secret, in small letters and without
// "_" and "-".
var secretMember = regexp.MustCompile(`(token|assertion|secret|password|key)s?$`)

// collectSecrets passes on the strings of a decoded JSON value that are in a member whose name
// is that of a secret, at any depth. What is shorter than minRun may be in any text.
func collectSecrets(value any, isSecret bool, add func(string)) {
	switch value := value.(type) {
	case string:
		if isSecret && len(value) >= minRun {
			add(value)
		}
	case []any:
		for _, element := range value {
			collectSecrets(element, isSecret, add)
		}
	case map[string]any:
		for name, member := range value {
			collectSecrets(member, isSecret || secretMember.MatchString(wordMarks.Replace(strings.ToLower(name))), add)
		}
	}
}

// reasonMembers are the members of a JSON object that say what is wrong, in the order in
// which they are quoted, in small letters and without "_" and "-": those of RFC 6749 §5.2,
// of problem details (RFC 9457), of JSON:API, and of what Apigee ("fault"), Okta
// ("errorSummary"), Salesforce ("errorCode"), WeChat ("errmsg") and others answer.
var reasonMembers = []string{
	"error", "errors", "fault", "errorcode", "errcode", "code",
	"title", "errordescription", "errorsummary", "errormessage", "errormsg", "errmsg",
	"faultstring", "message", "msg", "detail", "description", "reason", "errorcauses",
}

// wordMarks are removed from the names of members.
var wordMarks = strings.NewReplacer("_", "", "-", "")

const (
	maxDepth  = 4 // of objects in objects
	maxErrors = 3 // of an array
)

// collect passes on what the reasonMembers of a decoded JSON value say. A text in an array
// is a reason as well, and so is a number that is a code.
func collect(value any, depth int, add func(string)) {
	switch value := value.(type) {
	case string:
		add(value)
	case []any:
		if depth < maxDepth {
			for _, element := range value[:min(len(value), maxErrors)] {
				collect(element, depth+1, add)
			}
		}
	case map[string]any:
		if depth >= maxDepth {
			return
		}
		members := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(value)) { // of "Code" and "code", the latter counts
			members[wordMarks.Replace(strings.ToLower(name))] = value[name]
		}
		for _, name := range reasonMembers {
			if number, ok := members[name].(float64); ok && strings.HasSuffix(name, "code") && number != 0 {
				add(formatNumber(number))
				continue
			}
			collect(members[name], depth+1, add)
		}
	}
}

// longWord is a run of characters that may be a key, a token or a part of one, in
// whatever encoding. Those that are put together of words are error codes
// (temporarily_unavailable, INVALID_TOKEN_FORMAT, InvalidClientException).
var (
	longWord  = regexp.MustCompile(`[A-Za-z0-9+/_=%~|-]{20,}`)
	errorCode = regexp.MustCompile(`^([a-z_-]+|[A-Z_-]+|([A-Z][a-z]{2,})+)$`)
)

const mask = "[redacted]"

// redact makes a vendor's words fit for an error: without the secrets and parts of them,
// without anything that looks like one, on one line, short, and of characters that can be
// seen.
func redact(text string, secrets []string) string {
	if len(text) > maxSearched {
		text = strings.ToValidUTF8(text[:maxSearched], "")
	}
	text = maskSecrets(text, secrets)
	text = longWord.ReplaceAllStringFunc(text, func(word string) string {
		if errorCode.MatchString(word) {
			return word
		}
		return mask
	})
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	// Among those that cannot be seen are the ones that turn the direction of writing.
	text = strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsGraphic(r) {
			return r
		}
		return -1
	}, text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// formatNumber writes a number as JSON has it.
func formatNumber(n float64) string {
	raw, err := json.Marshal(n)
	if err != nil {
		return ""
	}
	return string(raw)
}
