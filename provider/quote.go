package provider

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxQuoted is the longest given value that an error quotes, in characters.
const maxQuoted = 40

// Quote returns a value that an operator gave, for the text of an error. Vault's audit log
// does not hash that text, and the value may be a secret in the wrong field: what is longer
// than a name usually is, spans lines or is PEM is described, and not quoted. URLs that
// CheckURL has taken need no Quote, without their query.
func Quote(value string) string {
	if isQuotable(value) {
		return strconv.Quote(value)
	}
	return unquoted(value)
}

// List returns given values separated by commas, each as Quote has it but without quotes.
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

// Redacted returns a vendor's words, for the text of an error: on one line, short, without the
// secrets and without anything that looks like one.
func Redacted(text string, secrets ...string) string { return redact(text, secrets) }

func isQuotable(value string) bool {
	return utf8.RuneCountInString(value) <= maxQuoted && utf8.ValidString(value) &&
		!strings.ContainsFunc(value, isLineBreak) && !strings.Contains(value, `\n`) && !strings.Contains(value, "-----")
}

func isLineBreak(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

func unquoted(value string) string {
	return fmt.Sprintf("(%d characters, not shown)", utf8.RuneCountInString(value))
}
