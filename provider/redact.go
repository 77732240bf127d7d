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
	// maxReason bounds the part of a vendor's message that an error quotes, in bytes.
	maxReason = 200

	// maxRefusal bounds the body of an error response, in bytes. Of a longer one only the
	// status counts, as decoding takes time and memory.
	maxRefusal = 64 << 10

	// maxSearched bounds the part of a vendor's message that is searched for secrets.
	maxSearched = 8 << 10
)

// reason returns the vendor's message in the body of a response: the members that JSON error
// responses use, or a JSON string. (asJSON has converted a form.) Anything else may come from
// any server at a wrong URL, and is not quoted. The text is redacted, including the tokens and
// secrets in the response itself.
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

// secretMember matches the names of members that contain a secret, in lower case and without
// "_" and "-".
var secretMember = regexp.MustCompile(`(token|assertion|secret|password|key)s?$`)

// collectSecrets passes to add the strings of a decoded JSON value that are in a member with
// the name of a secret, at any depth. It skips strings shorter than minRun, which may occur
// in any text.
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

// reasonMembers are the members of a JSON object with an error message, in the order in which
// they are quoted, in lower case and without "_" and "-". They are those of RFC 6749 §5.2,
// problem details (RFC 9457), JSON:API, Apigee ("fault"), Okta ("errorSummary"), Salesforce
// ("errorCode"), WeChat ("errmsg") and others.
var reasonMembers = []string{
	"error", "errors", "fault", "errorcode", "errcode", "code",
	"title", "errordescription", "errorsummary", "errormessage", "errormsg", "errmsg",
	"faultstring", "message", "msg", "detail", "description", "reason", "errorcauses",
}

// wordMarks removes separators from the names of members.
var wordMarks = strings.NewReplacer("_", "", "-", "")

const (
	maxDepth  = 4 // nested values
	maxErrors = 3 // elements of an array
)

// collect passes to add the texts of the reasonMembers of a decoded JSON value. A string in
// an array counts as a text, and so does a number in a code member.
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
		for _, name := range slices.Sorted(maps.Keys(value)) { // "code" overrides "Code"
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

// longWord matches a run of characters that may be a key or a token, or a part of one.
// errorCode matches those that consist of words and are error codes instead
// (temporarily_unavailable, INVALID_TOKEN_FORMAT, InvalidClientException).
var (
	longWord  = regexp.MustCompile(`[A-Za-z0-9+/_=%~|-]{20,}`)
	errorCode = regexp.MustCompile(`^([a-z_-]+|[A-Z_-]+|([A-Z][a-z]{2,})+)$`)
)

const mask = "[redacted]"

// redact prepares a vendor's message for the text of an error. It masks the secrets, their
// parts and anything that looks like one, removes line breaks and invisible characters, and
// truncates the text.
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
	// Invisible characters include those that change the writing direction.
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

// formatNumber formats a number as in JSON.
func formatNumber(n float64) string {
	raw, err := json.Marshal(n)
	if err != nil {
		return ""
	}
	return string(raw)
}
