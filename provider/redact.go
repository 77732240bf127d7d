package provider

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxReason is how much of a vendor's own words an error quotes, in bytes.
const maxReason = 200

// reason is what a vendor says is wrong, from the body of an answer: the members
// of a JSON object that error answers use (RFC 6749 §5.2, and those that other
// APIs have), or a text as it stands. Pages of HTML say nothing.
func reason(body []byte, secrets []string) string {
	var object map[string]any
	if json.Unmarshal(body, &object) == nil {
		return redact(strings.Join(messages(object), ": "), secrets)
	}
	text := strings.TrimSpace(string(body))
	if strings.HasPrefix(text, "<") || !utf8.ValidString(text) {
		return ""
	}
	return redact(text, secrets)
}

func messages(object map[string]any) []string {
	var found []string
	for _, key := range []string{"error", "code", "error_description", "errorSummary", "message", "detail"} {
		switch value := object[key].(type) {
		case string:
			if value != "" {
				found = append(found, value)
			}
		case map[string]any:
			found = append(found, messages(value)...)
		}
	}
	return found
}

// longWord is a run of characters that may be a key, a token or a part of one, in
// whatever encoding. One of lower-case letters alone is an error code
// (temporarily_unavailable).
var (
	longWord  = regexp.MustCompile(`[A-Za-z0-9+/_=%~|-]{20,}`)
	errorCode = regexp.MustCompile(`^[a-z_-]+$`)
)

// redact makes a vendor's words fit for an error: without the secrets, without
// anything that looks like one, on one line, and short.
func redact(text string, secrets []string) string {
	const mask = "[redacted]"
	for _, secret := range secrets {
		for _, form := range encodings(secret) {
			text = strings.ReplaceAll(text, form, mask)
		}
	}
	text = longWord.ReplaceAllStringFunc(text, func(word string) string {
		if errorCode.MatchString(word) {
			return word
		}
		return mask
	})
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// encodings are the forms in which a secret may come back.
func encodings(secret string) []string {
	if secret == "" {
		return nil
	}
	quoted, _ := json.Marshal(secret)
	return []string{
		secret,
		strings.Trim(string(quoted), `"`),
		url.QueryEscape(secret),
		url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.URLEncoding.EncodeToString([]byte(secret)),
		base64.RawStdEncoding.EncodeToString([]byte(secret)),
		base64.RawURLEncoding.EncodeToString([]byte(secret)),
	}
}
