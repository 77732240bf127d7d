package provider

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// spaced inserts a separator after every n characters of a text.
func spaced(text string, n int, separator string) string {
	var parts []string
	for len(text) > n {
		parts, text = append(parts, text[:n]), text[n:]
	}
	return strings.Join(append(parts, text), separator)
}

func TestGuarantee6APartialOrAlteredSecretIsRedacted(t *testing.T) {
	const secret = "kT9-vXw_2Lq.8ZrBn4Yc/6Hd"
	const inHex = "6b54392d765877"
	basic := base64.StdEncoding.EncodeToString([]byte("prod-client:" + url.QueryEscape(secret)))
	for name, form := range map[string]string{
		"a space in it":               secret[:7] + " " + secret[7:],
		"a line break in it":          secret[:7] + "\n" + secret[7:],
		"a space after each":          spaced(secret, 1, " "),
		"its first 19 characters":     secret[:19],
		"its last 12 characters":      secret[12:],
		"eight from its middle":       "vXw_2Lq.8",
		"cut, in upper case":          strings.ToUpper(secret[:19]),
		"an ellipsis in it":           secret[:10] + "..." + secret[14:],
		"hexadecimal":                 hex.EncodeToString([]byte(secret)),
		"hexadecimal, in pairs":       spaced(hex.EncodeToString([]byte(secret)), 2, " "),
		"hexadecimal, with colons":    spaced(strings.ToUpper(hex.EncodeToString([]byte(secret))), 2, ":"),
		"hexadecimal, of a part":      spaced(inHex+"5f", 2, " "),
		"a zero-width space in it":    secret[:7] + "\u200b" + secret[7:],
		"with bidi characters":        "\u202e" + secret[:7] + "\u2066" + secret[7:] + "\u2069\u202c",
		"base64, of a part":           base64.StdEncoding.EncodeToString([]byte(secret))[3:19],
		"base64, in a longer text":    base64.StdEncoding.EncodeToString([]byte("a " + secret))[:19],
		"base64, in lines":            spaced(base64.StdEncoding.EncodeToString([]byte(secret)), 10, "\n"),
		"HTTP Basic, with a space":    spaced(basic[16:], 19, " "), // without the part that encodes the client ID
		"escaped twice":               url.QueryEscape(url.QueryEscape(secret)),
		"JSON, in JSON":               strings.ReplaceAll(secret, "/", `\\\/`),
		"escaped, and cut":            url.QueryEscape(secret[:19]),
		"with numeric HTML entities":  strings.ReplaceAll(secret, "-", "&#x2d;")[:24],
		"with a soft hyphen, and cut": secret[:4] + "\u00ad" + secret[4:15],
	} {
		got := redact("you sent "+form+" to us", []string{secret})
		assert.Contains(t, got, mask, name)
		assert.Contains(t, got, "you sent ", name)
		rest := strings.ToLower(plain(strings.ReplaceAll(got, mask, " | "), isSeparator))
		for i := 0; i+minRun <= len(secret); i++ {
			assert.NotContains(t, rest, strings.ToLower(secret[i:i+minRun]), name)
		}
		words := strings.Fields(strings.NewReplacer("you sent", "", "to us", "", mask, "").Replace(got))
		assert.LessOrEqual(t, len(strings.Join(words, "")), 8, "%s: %s", name, got)
	}
	const signs = `p+s/w="d&1`
	assert.Equal(t, "you sent "+mask, redact(`you sent p+s/w ="d`+"\u200b"+`&1`, []string{signs}), "with few letters")
	assert.Equal(t, "invalid_client: prod-client is disabled", redact("invalid_client: prod-client is disabled", []string{secret}))
}

func TestTermsOfOAuthAreNotRedacted(t *testing.T) {
	for _, text := range []string{"the refresh token is not accepted", "wrong client_secret", "no client credentials", "unknown API key"} {
		assert.Equal(t, text, redact(text, []string{"my-refresh-token-0123", "my-client-secret-0123", "client.credentials/1", "an-api-key-0123"}))
	}
	assert.Equal(t, "unknown my-refre"+mask, redact("unknown my-refresh-token-01234567", []string{"a-refresh-token-01234567"}))
}

func TestASecretOfPunctuationIsRedacted(t *testing.T) {
	assert.Equal(t, "you sent "+mask, redact(`you sent +/&=%!*a`, []string{`x+/&=%!*a?`}))
}

func TestAShortSecretHidesNothingElse(t *testing.T) {
	assert.Equal(t, "invalid_client: try yet another", redact("invalid_client: try yet another", []string{"q1"}))
	assert.Equal(t, "you sent "+mask, redact("you sent Q1", []string{"q1"}))
}

func TestInvisibleCharactersAreNotQuoted(t *testing.T) {
	assert.Equal(t, "invalid grant", redact("in\u202evalid\u2066 \u200bgr\u00adant\ufeff\u2069", nil))
	assert.Equal(t, "one two", redact("one\u2028two\x1b", nil))
}

func TestSecretsAreRedactedInInvalidUTF8(t *testing.T) {
	got := redact("\xff\xfe you sent kT9vXw2Lq8ZrBn4Yc\xff", []string{"kT9vXw2Lq8ZrBn4Yc"})
	assert.Contains(t, got, "you sent "+mask)
}
