package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	yamlFence  = regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$")
	link       = regexp.MustCompile(`\]\((\.\./[^)]+)\)`)
	annotation = regexp.MustCompile(`\b(?:` + annotationPrefix + `[a-z]|(?:agent|template)-)[a-z-]+`)
)

func page(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "docs", name))
	require.NoError(t, err)
	return string(content)
}

func TestPageExcerptsMatchTheManifests(t *testing.T) {
	pages := page(t, "kubernetes.md") + page(t, "kubernetes-install.md")
	files, err := filepath.Glob(filepath.Join(root, "examples/kubernetes/*.yaml"))
	require.NoError(t, err)
	inServer, err := filepath.Glob(filepath.Join(root, "examples/kubernetes/server/*"))
	require.NoError(t, err)
	linked := map[string]bool{}
	for _, match := range link.FindAllStringSubmatch(pages, -1) {
		linked[filepath.Base(match[1])] = true
	}
	var all [][]string
	for _, file := range append(files, inServer...) {
		if filepath.Ext(file) == ".md" {
			continue
		}
		require.True(t, linked[filepath.Base(file)], "no page links to %s", file)
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		all = append(all, strings.Split(string(content), "\n"))
	}
	excerpts := yamlFence.FindAllStringSubmatch(pages, -1)
	require.NotEmpty(t, excerpts)
	for _, excerpt := range excerpts {
		lines := unindent(excerpt)
		require.True(t, slices.ContainsFunc(all, func(manifest []string) bool { return holds(manifest, lines) }), "the excerpt is in no manifest:\n%s", excerpt[2])
	}
}

// unindent returns the lines of a match of yamlFence without the indentation of the fence.
func unindent(match []string) []string {
	lines := strings.Split(strings.TrimSuffix(match[2], "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], match[1])
	}
	return lines
}

// holds reports whether a manifest has the lines as one block, with any common indentation.
func holds(manifest, lines []string) bool {
	for i := range len(manifest) - len(lines) + 1 {
		indent, found := strings.CutSuffix(manifest[i], lines[0])
		for j, line := range lines {
			found = found && strings.TrimSpace(indent) == "" && manifest[i+j] == indent+line
		}
		if found {
			return true
		}
	}
	return false
}

func TestPageNamesExistingAnnotations(t *testing.T) {
	names := annotation.FindAllString(page(t, "kubernetes.md"), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.True(t, known(strings.TrimPrefix(name, annotationPrefix)), name)
	}
}
