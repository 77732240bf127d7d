package docwalk_test

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

// said matches the engine's log messages at info and above, and the kinds of its events.
var said = regexp.MustCompile(`\.(?:Info|Warn|Error)\("([^"]+)"|"(tokenbroker/[a-z-]+)"`)

// logging matches the files of the packages that log or send events.
var logging = regexp.MustCompile(`^internal/(broker|credential|events)/`)

func TestTheMonitoringPageHasEveryMetricLineAndEvent(t *testing.T) {
	t.Chdir("../../..")
	page, err := os.ReadFile("docs/monitoring.md")
	require.NoError(t, err)
	shows := func(what string) {
		assert.Contains(t, string(page), "`"+what+"`")
	}

	found := 0
	require.NoError(t, fs.WalkDir(os.DirFS("."), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.Contains(path, "/") && !logging.MatchString(path) {
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

	e := engine.New(t)
	e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "expires": "2999-12-31"})
	e.Read("token/prod")
	e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "scope": "discover,event"})
	e.Write("roles/events", map[string]any{"config": "search", "scope": "event"})
	e.Read("token/events")
	for series := range e.Metrics() {
		name, _, _ := strings.Cut(series, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		shows(name)
	}
}

// runbook matches the runbook_url of an alert, with the page and the heading in this tree.
var runbook = regexp.MustCompile(`^https://github\.com/OWNER/vault-plugin-secrets-tokenbroker/blob/main/(docs/[a-z-]+\.md#\S+)$`)

func TestEachAlertIsInTheMonitoringPageAndLeadsToARunbook(t *testing.T) {
	t.Chdir("../../..")
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	text, err := os.ReadFile("examples/prometheus/alerts.yml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &rules))
	monitoring, err := os.ReadFile("docs/monitoring.md")
	require.NoError(t, err)

	tree := fstest.MapFS{}
	for _, page := range []string{"docs/consent.md", "docs/monitoring.md", "docs/rotation.md", "docs/troubleshooting.md"} {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		tree[page] = &fstest.MapFile{Data: text}
	}
	require.Len(t, rules.Groups, 1)
	var links strings.Builder
	for _, rule := range rules.Groups[0].Rules {
		assert.Contains(t, string(monitoring), "| `"+rule.Alert+"` |")
		leads := runbook.FindStringSubmatch(rule.Annotations["runbook_url"])
		require.NotNil(t, leads, rule.Alert)
		fmt.Fprintf(&links, "[%s](%s)\n", rule.Alert, leads[1])
	}
	tree["alerts.md"] = &fstest.MapFile{Data: []byte(links.String())}
	broken, err := docwalk.BrokenLinks(tree, "alerts.md")
	require.NoError(t, err)
	assert.Empty(t, broken)
}
