package terms

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../../.."

func load(t *testing.T) []Style {
	t.Helper()
	styles, err := Load(filepath.Join(root, "tools/vale/styles/Tokenbroker"))
	require.NoError(t, err)
	require.NotEmpty(t, styles)
	return styles
}

// tests matches the Go files whose names are checked, as the pages show the names of tests.
var tests = regexp.MustCompile(`_test\.go$|^(?:bench|test|tools|internal/testing)/`)

func TestTheTreeUsesTheTermsOfContributing(t *testing.T) {
	styles := load(t)
	var all []string
	require.NoError(t, fs.WalkDir(os.DirFS(root), ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "testdata":
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || path == "test/internal/terms/terms_test.go":
			return nil
		}
		source, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		found, err := Check(styles, path, source, tests.MatchString(path))
		require.NoError(t, err)
		all = append(all, found...)
		return nil
	}))
	assert.Empty(t, strings.Join(all, "\n"))
}

func TestTermsAreFoundInStringsAndNames(t *testing.T) {
	const source = "package x\n" +
		"import _ \"example.com/death\"\n" +
		"// Comments are for Vale: it dies.\n" +
		"func TestATokensLife(t *testing.T) {\n" +
		"	lastDeath := `the token\n" +
		"	dies`\n" +
		"	for _, dueToken := range f(\"left alone\") {}\n" +
		"}\n" +
		"type dead struct { living string `json:\"a_life\"` }\n" +
		"const message = \"there is no token, and the token is valid for its lifetime\"\n"
	all := []string{
		`x.go:4: write "lifetime" instead of "life": test a tokens life`,
		`x.go:5: write "expiry" instead of "death": last death`,
		"x.go:5: write \"expires\" instead of \"dies\": the token\n\tdies",
		`x.go:7: write "renewal" instead of "due token": due token`,
		`x.go:7: write "backing off" instead of "left alone": left alone`,
		`x.go:9: write "expired" instead of "dead": dead`,
		`x.go:9: write "valid" instead of "living": living`,
	}
	found, err := Check(load(t), "x.go", []byte(source), true)
	require.NoError(t, err)
	assert.Equal(t, all, found)

	found, err = Check(load(t), "x.go", []byte(source), false)
	require.NoError(t, err)
	assert.Equal(t, []string{all[2], all[4]}, found)
}

func TestAnUnsupportedStyleIsAnError(t *testing.T) {
	for text, want := range map[string]string{
		"extends: existence":                         `extends: "existence" is not supported`,
		"extends: substitution\nswap: {(a)b: c}":     "swap: 1 groups in 1 patterns",
		"extends: substitution\nswap: {'a(?=b)': c}": "invalid or unsupported Perl syntax",
		"extends: [": "yaml:",
	} {
		_, err := parse([]byte(text))
		require.ErrorContains(t, err, want)
	}
}

func TestWordsOfANameAreSplit(t *testing.T) {
	for name, want := range map[string]string{
		"TheTTLIsShort": "the ttl is short", "dueLife": "due life", "Guarantee12ACache": "guarantee 12 a cache",
		"a_b": "a b", "HTTP": "http", "x": "x",
	} {
		assert.Equal(t, want, words(name))
	}
}
