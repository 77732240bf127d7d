package tokenbroker_test

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// said is what the engine says in its log at info and above, and what events it sends.
var said = regexp.MustCompile(`\.(?:Info|Warn|Error)\("([^"]+)"|"(tokenbroker/[a-z-]+)"`)

func TestTheOperationsPageHasEveryMetricLineAndEvent(t *testing.T) {
	page, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	shows := func(what string) {
		assert.Contains(t, string(page), "`"+what+"`")
	}

	found := 0
	require.NoError(t, fs.WalkDir(os.DirFS("."), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.Contains(path, "/") && !strings.HasPrefix(path, "internal/broker/") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range said.FindAllStringSubmatch(string(source), -1) {
			shows(match[1] + match[2])
			found++
		}
		return err
	}))
	assert.Greater(t, found, 15)

	e := newEngine(t)
	e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
	e.read("token/prod")
	e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "scope": "discover,event"})
	e.write("roles/events", map[string]any{"config": "search", "scope": "event"})
	e.read("token/events")
	for series := range e.metrics() {
		name, _, _ := strings.Cut(series, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		shows(name)
	}
}
