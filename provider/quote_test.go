package provider_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestQuoteDoesNotShowValuesThatMayBeSecrets(t *testing.T) {
	for value, want := range map[string]string{
		"lnk":                   `"lnk"`,
		`a"b`:                   `"a\"b"`,
		strings.Repeat("x", 40): `"` + strings.Repeat("x", 40) + `"`,
		strings.Repeat("x", 41): "(41 characters, not shown)",
		strings.Repeat("ü", 41): "(41 characters, not shown)",
		"two\nlines":            "(9 characters, not shown)",
		"two\rlines":            "(9 characters, not shown)",
		"two\u2028lines":        "(9 characters, not shown)",
		`two\nlines`:            "(10 characters, not shown)",
		"-----BEGIN EC KEY":     "(17 characters, not shown)",
		"\xff\xfe":              "(2 characters, not shown)",
	} {
		assert.Equal(t, want, provider.Quote(value))
	}
	assert.Equal(t, "discover, (41 characters, not shown)", provider.List([]string{"discover", strings.Repeat("x", 41)}))
}
