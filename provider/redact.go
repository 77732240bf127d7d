package provider

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strconv"
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
// whatever encoding. Those that are put together of words are error codes
// (temporarily_unavailable, INVALID_TOKEN_FORMAT, InvalidClientException).
var (
	longWord  = regexp.MustCompile(`[A-Za-z0-9+/_=%~|-]{20,}`)
	errorCode = regexp.MustCompile(`^([a-z_-]+|[A-Z_-]+|([A-Z][a-z]{2,})+)$`)
)

const mask = "[redacted]"

// redact makes a vendor's words fit for an error: without the secrets, without
// anything that looks like one, on one line, and short.
func redact(text string, secrets []string) string {
	for _, secret := range secrets {
		for _, form := range encodings(secret) {
			text = strings.ReplaceAll(text, form, mask)
		}
	}
	// Before a part of the secret is masked, which would leave the rest of it unseen.
	if echoes(text, secrets) {
		return mask
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

// echoes is whether a secret is in the text in a form that encodings does not list:
// in other letters' case, or with some characters escaped.
func echoes(text string, secrets []string) bool {
	written, plain := strings.ToLower(text), strings.ToLower(unescape(text))
	return slices.ContainsFunc(secrets, func(secret string) bool {
		// What looks like an escape may be the secret's own.
		return contains(written, secret) || contains(plain, secret) || contains(plain, unescape(secret))
	})
}

// contains is whether a secret, if it is any, is in a text of small letters.
func contains(text, secret string) bool {
	return secret != "" && strings.Contains(text, strings.ToLower(secret))
}

// unescape undoes HTML's entities and the escapes of JSON and URLs, where there are
// any.
func unescape(text string) string {
	text = html.UnescapeString(text)
	text = escape.ReplaceAllStringFunc(text, func(e string) string {
		code, err := strconv.ParseUint(strings.TrimLeft(e, `\u%`), 16, 32)
		if err != nil {
			return e
		}
		return string(rune(code))
	})
	return strings.ReplaceAll(text, `\`, "")
}

var escape = regexp.MustCompile(`\\u[0-9A-Fa-f]{4}|%[0-9A-Fa-f]{2}`)

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
