package apipath_test

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
)

func TestANameIsWhatThePatternOfPathsMatches(t *testing.T) {
	pattern := regexp.MustCompile("^" + apipath.NamePattern("name") + "$")
	names := []string{
		"", "a", "_", "-", ".", "ab", "a.", ".a", "a-", "a..b", "a@b.c+d", "ä", "aä", "aéb", "a b", "a/b", "a\n", "\na", "a\x00b", "\xff",
		strings.Repeat("a", apipath.MaxName),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		name := make([]byte, random.IntN(6))
		for i := range name {
			name[i] = "aZ09_.@+-/ ~\n\x7f\xc3\xa4"[random.IntN(16)]
		}
		names = append(names, string(name))
	}
	found := 0
	for _, name := range names {
		assert.Equal(t, pattern.MatchString(name), apipath.IsName(name), "%q", name)
		if apipath.IsName(name) {
			found++
		}
	}
	assert.Greater(t, found, 1000)
	assert.False(t, apipath.IsName(strings.Repeat("a", apipath.MaxName+1)))
}
