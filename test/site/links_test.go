//go:build e2e

package site

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
)

// ids returns the fragments that lead to a place in a page.
func ids(t *testing.T, name string, page *html.Node) map[string]bool {
	t.Helper()
	found := map[string]bool{"": true}
	for _, element := range elements(page) {
		if id := attribute(element, "id"); id != "" {
			assert.False(t, found[id], "%s has two elements with the id %s", name, id)
			found[id] = true
		}
	}
	return found
}

// link is an element that names another resource.
type link struct {
	*html.Node
	page string // on which it is
	to   string
}

// allLinks returns the links of the pages, and the resources that the pages load.
func allLinks(pages map[string]*html.Node) []link {
	var all []link
	for name, page := range pages {
		for _, element := range elements(page) {
			for _, a := range []string{"href", "src", "action", "data", "poster", "srcset"} {
				if to := attribute(element, a); to != "" {
					all = append(all, link{element, name, to})
				}
			}
		}
	}
	return all
}

// repositoryLink returns the address at which the repository has its files.
func repositoryLink(t *testing.T, pages map[string]*html.Node) string {
	t.Helper()
	for _, a := range elements(elements(pages["index.html"], "header")[0], "a") {
		if textOf(a) == "Repository" {
			return attribute(a, "href") + "/blob/main/"
		}
	}
	require.Fail(t, "no link to the repository")
	return ""
}

func TestEveryLinkOfTheSiteLeadsToAPageAndASection(t *testing.T) {
	pages, files, inRepository := readPages(t), siteFiles(t), repositoryFiles(t)
	for file := range inRepository {
		for folder := path.Dir(file); folder != "."; folder = path.Dir(folder) {
			inRepository[folder] = true
		}
	}
	sections := map[string]map[string]bool{}
	for name, page := range pages {
		sections[name] = ids(t, name, page)
	}
	repository := repositoryLink(t, pages)

	internal, sources := 0, 0
	for _, l := range allLinks(pages) {
		to, err := url.Parse(l.to)
		require.NoError(t, err, l.page)
		if file, is := strings.CutPrefix(l.to, repository); is {
			sources++
			file, _, _ = strings.Cut(file, "#")
			assert.True(t, inRepository[file], "%s: %s: the repository has no such file", l.page, l.to)
		}
		if to.Scheme != "" {
			assert.Contains(t, []string{"https", "http", "mailto", "data"}, to.Scheme, l.page)
			continue
		}
		internal++
		assert.False(t, strings.HasPrefix(l.to, "/"), "%s: %s: not relative", l.page, l.to)
		target := l.page
		if to.Path != "" {
			target = path.Join(path.Dir(l.page), to.Path)
		}
		assert.True(t, files[target], "%s: %s: the site has no such file", l.page, l.to)
		if ids, isPage := sections[target]; isPage {
			assert.True(t, ids[to.Fragment], "%s: %s: the page has no such section", l.page, l.to)
		}
	}
	assert.Greater(t, internal, 4000)
	assert.Greater(t, sources, 100)
}

// A resource of another host would show that host who reads which page, and would be missing without it.
func TestThePagesLoadNothingFromAnotherHost(t *testing.T) {
	loaded := 0
	for _, l := range allLinks(readPages(t)) {
		if l.Data != "a" {
			loaded++
			to, err := url.Parse(l.to)
			require.NoError(t, err, l.page)
			assert.True(t, to.Host == "" && (to.Scheme == "" || to.Scheme == "data"), "%s: <%s> loads %s", l.page, l.Data, l.to)
		}
	}
	assert.Greater(t, loaded, 100)

	// A picture of an <img> loads nothing, also if it is an SVG.
	for _, name := range []string{"site.css", "vendors.js", "diagrams.js"} {
		content, err := os.ReadFile(filepath.Join(os.Getenv("SITE"), name))
		require.NoError(t, err)
		assert.NotRegexp(t, `//[a-z]|@import|url\(`, string(content), name)
	}
}

// The navigation has each page in the order of docs/README.md, and the pages of the project.
func TestEachPageIsOnTheSiteAndLinked(t *testing.T) {
	pages := readPages(t)
	linked := map[string]bool{}
	for _, l := range allLinks(pages) {
		if to, _, _ := strings.Cut(l.to, "#"); to != "" && !strings.Contains(to, ":") && l.page != path.Join(path.Dir(l.page), to) {
			linked[path.Join(path.Dir(l.page), to)] = true
		}
	}
	expected := map[string]bool{}
	for _, source := range sources(t) {
		page := pageOf(source)
		expected[page] = true
		assert.Contains(t, pages, page)
		assert.True(t, linked[page], "no other page links to %s", page)
	}
	for page := range pages {
		assert.True(t, expected[page], "%s has no source", page)
	}
}

// The commands of the pages write secrets into a clone, beside the examples.
func TestTheSiteHasOnlyFilesOfTheRepository(t *testing.T) {
	inRepository, sources := repositoryFiles(t), sources(t)
	pages := map[string]bool{}
	for _, source := range sources {
		pages[pageOf(source)] = true
	}
	library := map[string]bool{"mermaid.js": true, "mermaid.txt": true}
	for file := range siteFiles(t) {
		assert.True(t, pages[file] || inRepository[file] || inRepository["tools/site/static/"+file] || library[file], "%s is not in the repository", file)
	}
}
