package docwalk

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABrokenLinkIsFound(t *testing.T) {
	tree := fstest.MapFS{
		"README.md":    {Data: []byte("[a](docs/a.md) [b](docs/b.md#a-heading) [c](docs/a.md#none) [d](docs/none.md) [e](#top) [f](https://a.example/none)\n\n# Top\n")},
		"docs/a.md":    {Data: []byte("[up](../README.md#top) [beside](b.md) [here](#here)\n")},
		"docs/b.md":    {Data: []byte("## A `heading`\n")},
		"docs/c.md":    {Data: []byte("![A picture](a.png) ![](a.png) ![Another one](none.png)\n")},
		"docs/a.png":   {Data: nil},
		"examples/a.c": {Data: nil},
	}
	broken, err := BrokenLinks(tree, "README.md")
	require.NoError(t, err)
	assert.Equal(t, []string{"README.md: docs/a.md#none: heading not found", "README.md: docs/none.md: file not found"}, broken)
	broken, err = BrokenLinks(tree, "docs/a.md")
	require.NoError(t, err)
	assert.Equal(t, []string{"docs/a.md: #here: heading not found"}, broken)
	broken, err = BrokenLinks(tree, "docs/c.md")
	require.NoError(t, err)
	assert.Equal(t, []string{"docs/c.md: a.png: no alternative text", "docs/c.md: none.png: file not found"}, broken)
}

func TestNoLinkOfTheDocumentationIsBroken(t *testing.T) {
	tree := os.DirFS("../../..")
	entries, err := os.ReadDir("../../../docs")
	require.NoError(t, err)
	pages := []string{"CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"}
	for _, entry := range entries {
		if path.Ext(entry.Name()) == ".md" {
			pages = append(pages, "docs/"+entry.Name())
		}
	}
	for _, file := range exampleFiles(t) {
		if path.Base(file) == "README.md" {
			pages = append(pages, file)
		}
	}
	for _, page := range pages {
		broken, err := BrokenLinks(tree, page)
		require.NoError(t, err)
		assert.Empty(t, broken)
	}
}

// A picture that no page shows is one that a test takes no more, or under another name.
func TestAPageShowsEachPicture(t *testing.T) {
	pictures, err := filepath.Glob("../../../docs/images/*")
	require.NoError(t, err)
	require.NotEmpty(t, pictures)
	pages := ""
	files, err := filepath.Glob("../../../docs/*.md")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		pages += string(text)
	}
	for _, picture := range pictures {
		assert.Contains(t, pages, "](images/"+filepath.Base(picture)+")")
		info, err := os.Stat(picture)
		require.NoError(t, err)
		assert.Less(t, info.Size(), int64(40_000), picture)
	}
}

func TestTheOrderIsThatOfTheLinksInTheSection(t *testing.T) {
	tree := fstest.MapFS{"docs/README.md": {Data: []byte(`# Pages

[z](z.md)

## In order

### First

| page | content |
| --- | --- |
| [start](../README.md#start) | [a command](../examples) |
| [b](b.md) | after [start](../README.md) |

### Second

[a](a.md#top), [site](https://a.example/site.md#top)

## Other pages

[c](c.md)
`)}}
	pages, err := Order(tree, "docs/README.md", "In order")
	require.NoError(t, err)
	assert.Equal(t, []string{"README.md", "docs/b.md", "docs/a.md"}, pages)
	all, err := Order(tree, "docs/README.md", "Pages")
	require.NoError(t, err)
	assert.Equal(t, []string{"docs/z.md", "README.md", "docs/b.md", "docs/a.md", "docs/c.md"}, all)
}

func TestTheIndexHasEachPage(t *testing.T) {
	tree := os.DirFS("../../..")
	listed, err := Order(tree, "docs/README.md", "Documentation")
	require.NoError(t, err)
	pages, err := fs.Glob(tree, "docs/*.md")
	require.NoError(t, err)
	for _, page := range pages {
		if page != "docs/README.md" {
			assert.Contains(t, listed, page)
		}
	}
}

func TestTheReadmeIsShort(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	assert.LessOrEqual(t, strings.Count(string(readme), "\n"), 150, "lines: move what is not for a first visit to docs/")
}

// testName matches the name of a test, or of one of its cases, in a page.
var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)[`/]")

func TestEveryTestThatAPageNamesExists(t *testing.T) {
	defined := map[string]bool{}
	definition := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	require.NoError(t, filepath.WalkDir("../../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range definition.FindAllSubmatch(source, -1) {
			defined[string(match[1])] = true
		}
		return err
	}))
	page, err := os.ReadFile("../../../docs/security.md")
	require.NoError(t, err)
	named := testName.FindAllSubmatch(page, -1)
	assert.Greater(t, len(named), 20)
	for _, match := range named {
		assert.True(t, defined[string(match[1])], "test %s not found", match[1])
	}
}
