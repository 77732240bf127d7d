//go:build e2e

// Package site tests the site of the documentation, as `make site` builds it. SITE names its folder.
package site

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
)

// root is the repository.
const root = "../.."

// repositoryFiles returns the files of the repository.
func repositoryFiles(t *testing.T) map[string]bool {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	require.NoError(t, err)
	files := map[string]bool{}
	for _, file := range strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00") {
		files[file] = true
	}
	return files
}

// siteFiles returns the files of the site.
func siteFiles(t *testing.T) map[string]bool {
	t.Helper()
	folder := os.Getenv("SITE")
	require.NotEmpty(t, folder, "run make site-test, which sets SITE")
	files := map[string]bool{}
	require.NoError(t, filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, err = filepath.Rel(folder, name)
			files[filepath.ToSlash(name)] = true
		}
		return err
	}))
	return files
}

// readPages returns the pages of the site by their paths.
func readPages(t *testing.T) map[string]*html.Node {
	t.Helper()
	pages := map[string]*html.Node{}
	for name := range siteFiles(t) {
		if path.Ext(name) == ".html" {
			file, err := os.Open(filepath.Join(os.Getenv("SITE"), name))
			require.NoError(t, err)
			pages[name], err = html.Parse(file)
			require.NoError(t, err)
			require.NoError(t, file.Close())
		}
	}
	require.Greater(t, len(pages), 50)
	return pages
}

// pageOf returns the path on the site of a Markdown file.
func pageOf(markdown string) string {
	if folder, name := path.Split(markdown); name == "README.md" {
		return folder + "index.html"
	}
	return strings.TrimSuffix(markdown, ".md") + ".html"
}

// sources returns the Markdown files that are pages of the site.
func sources(t *testing.T) []string {
	t.Helper()
	var found []string
	for file := range repositoryFiles(t) {
		folder := strings.Split(path.Dir(file), "/")[0]
		if path.Ext(file) == ".md" && (folder == "." || folder == "docs" || folder == "examples") {
			found = append(found, file)
		}
	}
	require.Greater(t, len(found), 50)
	return found
}

// elements returns the elements of a document with one of the names, or all elements.
func elements(document *html.Node, names ...string) []*html.Node {
	var found []*html.Node
	for node := range document.Descendants() {
		if node.Type != html.ElementNode {
			continue
		}
		for _, name := range names {
			if node.Data == name {
				found = append(found, node)
			}
		}
		if len(names) == 0 {
			found = append(found, node)
		}
	}
	return found
}

// attribute returns the value of an attribute of an element, or "".
func attribute(element *html.Node, name string) string {
	for _, a := range element.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// textOf returns the text in an element.
func textOf(element *html.Node) string {
	var text strings.Builder
	for node := range element.Descendants() {
		if node.Type == html.TextNode {
			text.WriteString(node.Data)
		}
	}
	return text.String()
}
