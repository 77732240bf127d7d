//go:build e2e

package site

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// content is what a Markdown file and its page must have in common.
type content struct {
	headings []string // their anchors, as GitHub makes them
	code     []string // the blocks of code
}

var notInAnchors = regexp.MustCompile(`[^\p{L}\p{M}\p{N}\p{Pc}\- ]`)

// read returns the anchors and the code of a Markdown file.
func read(t *testing.T, file string) content {
	t.Helper()
	markdown, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	var found content
	times := map[string]int{}
	document := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(markdown))
	require.NoError(t, ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch node := node.(type) {
		case *ast.Heading:
			anchor := strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(plain(node, markdown)), ""), " ", "-")
			times[anchor]++
			if n := times[anchor]; n > 1 {
				anchor = fmt.Sprintf("%s-%d", anchor, n-1)
			}
			found.headings = append(found.headings, anchor)
		case *ast.FencedCodeBlock:
			found.code = append(found.code, string(node.Lines().Value(markdown)))
		case *ast.CodeBlock:
			found.code = append(found.code, string(node.Lines().Value(markdown)))
		}
		return ast.WalkContinue, nil
	}))
	return found
}

// plain returns the text of a heading without its markup.
func plain(heading ast.Node, markdown []byte) string {
	var all strings.Builder
	_ = ast.Walk(heading, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, is := node.(*ast.Text); is && entering {
			value := string(t.Segment.Value(markdown))
			if _, isCode := node.Parent().(*ast.CodeSpan); !isCode {
				value = strings.ReplaceAll(value, `\<`, "<")
			}
			all.WriteString(value)
		}
		return ast.WalkContinue, nil
	})
	return all.String()
}

// Links with a fragment work on GitHub and on the site.
func TestTheHeadingsHaveTheAnchorsOfGitHub(t *testing.T) {
	pages := readPages(t)
	for _, source := range sources(t) {
		var headings []string
		for _, heading := range elements(elements(pages[pageOf(source)], "main")[0], "h1", "h2", "h3", "h4", "h5", "h6") {
			if id := attribute(heading, "id"); id != "files" && !strings.Contains(id, ".") && id != "Dockerfile" {
				headings = append(headings, id)
			}
		}
		assert.Equal(t, read(t, source).headings, headings, source)
	}
}

// The end-to-end tests run the commands of the Markdown. So those of the site are tested as well.
func TestTheCommandsOfTheSiteAreThoseOfThePages(t *testing.T) {
	pages, all := readPages(t), 0
	for _, source := range sources(t) {
		var shown []string
		for _, pre := range elements(elements(pages[pageOf(source)], "main")[0], "pre") {
			shown = append(shown, textOf(pre))
		}
		expected := read(t, source).code
		require.GreaterOrEqual(t, len(shown), len(expected), source)
		for i := range expected {
			assert.Equal(t, expected[i], shown[i], source)
			all++
		}
	}
	assert.Greater(t, all, 200)
}

// A reader who has only the site finds each example there, as text and as a file.
func TestTheSiteShowsTheExamples(t *testing.T) {
	pages, shown := readPages(t), 0
	for file := range repositoryFiles(t) {
		folder, name := filepath.Split(file)
		if !strings.HasPrefix(file, "examples/") || filepath.Ext(name) == ".md" {
			continue
		}
		shown++
		expected, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		if name[0] != '.' {
			served, err := os.ReadFile(filepath.Join(os.Getenv("SITE"), file))
			require.NoError(t, err)
			assert.Equal(t, string(expected), string(served), file)
		}
		if len(expected) < 10_000 {
			assert.Contains(t, textOf(pages[folder+"index.html"]), strings.TrimSpace(string(expected)), "%s of %s", name, folder)
		}
	}
	assert.Greater(t, shown, 30)
}
