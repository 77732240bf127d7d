package provider

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxQuoted is the length of the longest value that an error quotes, in characters.
const maxQuoted = 40

// Quote quotes a value that an operator gave, for the text of an error. The value may be a
// secret in the wrong field, and Vault's audit log does not hash the text of errors. Quote
// therefore describes a value that is longer than most names, spans lines or is PEM. A URL
// that passed [CheckURL] does not need Quote once its query is removed.
func Quote(value string) string {
	if isQuotable(value) {
		return strconv.Quote(value)
	}
	return unquoted(value)
}

// List joins values with commas. Like [Quote], it describes those that may be secrets, but
// it adds no quotation marks.
func List(values []string) string {
	shown := make([]string, len(values))
	for i, value := range values {
		shown[i] = value
		if !isQuotable(value) {
			shown[i] = unquoted(value)
		}
	}
	return strings.Join(shown, ", ")
}

// Redacted prepares a vendor's message for the text of an error: short, on one line, and with
// the secrets and anything that looks like one masked.
func Redacted(text string, secrets ...string) string { return redact(text, secrets) }

func isQuotable(value string) bool {
	return utf8.RuneCountInString(value) <= maxQuoted && utf8.ValidString(value) &&
		!strings.ContainsFunc(value, isLineBreak) && !strings.Contains(value, `\n`) && !strings.Contains(value, "-----")
}

func isLineBreak(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

func unquoted(value string) string {
	return fmt.Sprintf("(%d characters, not shown)", utf8.RuneCountInString(value))
}
